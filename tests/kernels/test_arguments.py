"""Bad arguments: a ValueError or TypeError that names the argument, before anything is launched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from penstock.kernels import registry
from penstock.kernels.adamw import adamw_step
from penstock.kernels.attention import attention, find_documents, latent_attention
from penstock.kernels.cross_entropy import joint_cross_entropy, linear_cross_entropy
from penstock.kernels.embedding import embedding
from penstock.kernels.feed_forward import expert_feed_forward, feed_forward
from penstock.kernels.gemm import gemm, joint_linear, linear, wgrad
from penstock.kernels.gemm.product import forward, movable
from penstock.kernels.gradient_norm import gradient_norm
from penstock.kernels.grouped_gemm import grouped_gemm, grouped_linear, grouped_wgrad
from penstock.kernels.mla import apply_rope, rotate_heads
from penstock.kernels.norm import add_rms_norm, add_rms_norm_quantize, rms_norm
from penstock.kernels.permute import combine, permute, permute_rows
from penstock.kernels.quantize import (
    dequantize,
    quantize_both,
    quantize_rows,
    quantize_tokens,
    quantize_weight,
    transpose_shift,
)
from penstock.kernels.route import balance_loss, route, route_tables, router_logits
from penstock.kernels.states import States
from penstock.kernels.swiglu import swiglu
from penstock.kernels.types import Groups

X = torch.randn(6, 32)
W = torch.randn(16, 32)
X_Q, W_Q = quantize_rows(X), quantize_weight(W)
G_T, X_T = quantize_tokens(torch.randn(6, 16)), quantize_tokens(X)
LOGITS, BIAS = torch.randn(6, 8), torch.zeros(8)
IDX = torch.randint(0, 8, (6, 2)).int()
GROUPS = route_tables(IDX, 8)
SMALL = route_tables(IDX, 8, block=4)
EXPERTS = torch.randn(8, 16, 32)
GATE_UP, EXPERTS_T = torch.randn(8, 32, 32), torch.randn(8, 32, 16)
EXPERTS_Q = quantize_weight(EXPERTS)
ROWS = torch.randn(GROUPS.n_rows, 32)
R_Q, R_T, P = quantize_rows(ROWS), quantize_tokens(ROWS), torch.rand(6, 2)
FEWER_COUNTS = {"offsets": GROUPS.offsets[:-1], "counts": GROUPS.counts[:-1]}
SPREAD = GROUPS.block_expert.repeat_interleave(2)
Q4 = torch.randn(1, 4, 2, 8)
ANGLES = torch.randn(1, 4, 8)
INTS = torch.arange(6)
DENSE = torch.randn(32, 32), torch.randn(32, 16)
DOCUMENTS = find_documents(torch.zeros(1, 4, dtype=torch.int64))
LATENT = (Q4, Q4, Q4.repeat(1, 1, 1, 2), Q4[:, :, 0], 1.0)


def elsewhere(t: torch.Tensor) -> torch.Tensor:
    """Like ``t``, on another device."""
    return torch.empty_like(t, device="meta")


def tables(**changes: torch.Tensor) -> Groups:
    return dataclasses.replace(GROUPS, **changes)


def adamw(**changes: object) -> None:
    given = {k: [torch.zeros(3)] for k in ("params", "grads", "m", "v")} | {"lr": 0.1} | changes
    adamw_step(**given)


CASES: list[tuple[str, type[Exception], Callable[[], object]]] = [
    ("x", TypeError, lambda: linear([1.0], W)),
    ("x", TypeError, lambda: linear(INTS, W)),
    ("inner dimension", ValueError, lambda: linear(X[:, :31], W)),
    ("w", ValueError, lambda: linear(X, W[0])),
    ("precision", ValueError, lambda: linear(X, W, "fp4")),
    (r"weights\[1\]", ValueError, lambda: joint_linear(X, (W, W[0]), "fp8")),
    ("inner dimension", ValueError, lambda: joint_linear(X, (W, W[:, :31]), "fp8")),
    ("precision", ValueError, lambda: joint_linear(X, (W,), "fp4")),
    ("a", TypeError, lambda: gemm(X, W_Q)),
    ("w", TypeError, lambda: gemm(X_Q, W)),
    ("inner dimension", ValueError, lambda: gemm(X_Q, W_Q, transposed=True)),
    ("a.scale", ValueError, lambda: gemm(dataclasses.replace(X_Q, scale=torch.ones(1, 5)), W_Q)),
    ("a.data", TypeError, lambda: gemm(dataclasses.replace(X_Q, data=X), W_Q)),
    ("w.data_t", ValueError, lambda: gemm(X_Q, dataclasses.replace(W_Q, data_t=W_Q.data))),
    ("out", ValueError, lambda: gemm(X_Q, W_Q, out=torch.empty(6, 15))),
    ("out", TypeError, lambda: gemm(X_Q, W_Q, out=torch.empty(6, 16, dtype=torch.float64))),
    ("out", ValueError, lambda: gemm(X_Q, W_Q, out=torch.empty(16, 6).t())),
    ("out_dtype", TypeError, lambda: gemm(X_Q, W_Q, out_dtype=torch.int8)),
    ("out", ValueError, lambda: wgrad(G_T, X_T, accumulate=True)),
    ("out", TypeError, lambda: wgrad(G_T, X_T, torch.empty(16, 32, dtype=torch.bfloat16))),
    ("x", TypeError, lambda: wgrad(G_T, transpose_shift(X_Q))),
    ("tokens", ValueError, lambda: wgrad(G_T, quantize_tokens(torch.randn(200, 32)))),
    ("tokens", ValueError, lambda: wgrad(X_Q, X_Q)),
    ("experts", ValueError, lambda: grouped_linear(ROWS, EXPERTS[:7], GROUPS)),
    ("rows", ValueError, lambda: grouped_linear(ROWS[:-1], EXPERTS, GROUPS)),
    ("groups", TypeError, lambda: grouped_linear(ROWS, EXPERTS, None)),
    ("groups.offsets", ValueError, lambda: grouped_linear(ROWS, EXPERTS, tables(offsets=GROUPS.offsets[:8]))),
    ("groups.offsets", TypeError, lambda: permute(X, tables(offsets=GROUPS.offsets.long()))),
    ("groups.counts", TypeError, lambda: permute(X, tables(counts=None))),
    ("experts", ValueError, lambda: grouped_linear(ROWS, EXPERTS, tables(**FEWER_COUNTS))),
    ("groups.offsets", ValueError, lambda: permute(X, tables(counts=GROUPS.counts[:7]))),
    ("groups.row_token", ValueError, lambda: permute_rows(X_Q, tables(row_token=GROUPS.row_token[:-128]))),
    ("groups.token_pos", ValueError, lambda: permute(X, tables(token_pos=GROUPS.token_pos[0]))),
    ("groups.block_expert", ValueError, lambda: combine(ROWS, P, tables(block_expert=SPREAD[::2]))),
    ("groups.counts", ValueError, lambda: combine(ROWS, P, tables(counts=elsewhere(GROUPS.counts)))),
    ("groups", TypeError, lambda: permute(X, IDX)),
    ("groups", TypeError, lambda: combine(ROWS, P, None)),
    ("groups", TypeError, lambda: grouped_wgrad(quantize_tokens(ROWS), quantize_tokens(ROWS), None)),
    ("groups", TypeError, lambda: expert_feed_forward(X, P, GATE_UP, EXPERTS_T, None)),
    ("out", ValueError, lambda: gemm(X_Q, W_Q, out=elsewhere(torch.empty(6, 16)))),
    ("out", ValueError, lambda: wgrad(G_T, X_T, elsewhere(torch.empty(16, 32)))),
    (
        "out",
        ValueError,
        lambda: grouped_gemm(R_Q, EXPERTS_Q, GROUPS, out=elsewhere(ROWS[:, :16].contiguous())),
    ),
    ("out", ValueError, lambda: grouped_wgrad(R_T, R_T, GROUPS, elsewhere(torch.empty(8, 32, 32)))),
    ("x", ValueError, lambda: linear(X[0, 0], W)),
    ("x", ValueError, lambda: joint_linear(X[0, 0], (W,), "fp8")),
    (
        "groups.block",
        ValueError,
        lambda: grouped_linear(torch.randn(SMALL.n_rows, 32), EXPERTS, SMALL, "fp8"),
    ),
    ("inner dimension", ValueError, lambda: grouped_gemm(quantize_rows(ROWS), EXPERTS_Q, GROUPS, True)),
    ("w.data", ValueError, lambda: grouped_gemm(quantize_rows(ROWS), W_Q, GROUPS)),
    (
        "out",
        ValueError,
        lambda: grouped_wgrad(quantize_tokens(ROWS), quantize_tokens(ROWS), GROUPS, None, True),
    ),
    ("rows", ValueError, lambda: grouped_wgrad(G_T, X_T, GROUPS)),
    ("x", ValueError, lambda: quantize_rows(X[0])),
    ("x", TypeError, lambda: quantize_tokens(INTS[None])),
    ("x", ValueError, lambda: quantize_both(X[0])),
    ("x", TypeError, lambda: quantize_both(INTS[None])),
    ("w", ValueError, lambda: quantize_weight(X[0])),
    ("a", TypeError, lambda: transpose_shift(X)),
    ("rows", TypeError, lambda: transpose_shift(X_Q, torch.zeros(4))),
    ("q", TypeError, lambda: dequantize(X)),
    ("logits", TypeError, lambda: route(LOGITS.bfloat16(), BIAS, 1, 1, 2, 1.0)),
    ("bias", ValueError, lambda: route(LOGITS, BIAS[:7], 1, 1, 2, 1.0)),
    ("bias", TypeError, lambda: route(LOGITS, BIAS.int(), 1, 1, 2, 1.0)),
    ("bias", ValueError, lambda: route(LOGITS, elsewhere(BIAS), 1, 1, 2, 1.0)),
    ("k", TypeError, lambda: route(LOGITS, BIAS, 1, 1, 2.0, 1.0)),
    ("scale", TypeError, lambda: route(LOGITS, BIAS, 1, 1, 2, BIAS)),
    ("n_group", ValueError, lambda: route(LOGITS, BIAS, 3, 1, 2, 1.0)),
    ("n_group", ValueError, lambda: route(LOGITS, BIAS, 8, 1, 1, 1.0)),
    ("topk_group", ValueError, lambda: route(LOGITS, BIAS, 4, 5, 2, 1.0)),
    ("k", ValueError, lambda: route(LOGITS, BIAS, 4, 1, 3, 1.0)),
    ("idx", TypeError, lambda: route_tables(LOGITS, 8)),
    ("valid", ValueError, lambda: route_tables(IDX, 8, torch.ones(5, dtype=torch.bool))),
    ("valid", TypeError, lambda: route_tables(IDX, 8, INTS)),
    ("valid", ValueError, lambda: route_tables(IDX, 8, elsewhere(INTS > 2))),
    ("n_experts", TypeError, lambda: route_tables(IDX, "8")),
    ("highest", ValueError, lambda: balance_loss(LOGITS[None], IDX[None, :, :0])),
    ("valid", ValueError, lambda: balance_loss(LOGITS[None], IDX[None], elsewhere(INTS[None] > 2))),
    ("block", ValueError, lambda: route_tables(IDX, 8, block=0)),
    ("n_experts", ValueError, lambda: route_tables(IDX, 0)),
    ("x", ValueError, lambda: permute(X[:5], GROUPS)),
    ("y", ValueError, lambda: combine(ROWS[:-1], torch.rand(6, 2), GROUPS)),
    ("p", ValueError, lambda: combine(ROWS, torch.rand(6, 3), GROUPS)),
    ("tokens", TypeError, lambda: embedding(X, W, torch.float32)),
    ("weight", ValueError, lambda: embedding(INTS, W[0], torch.float32)),
    ("weight", TypeError, lambda: embedding(INTS, INTS, torch.float32)),
    ("dtype", TypeError, lambda: embedding(INTS, W, torch.int32)),
    ("dtype", TypeError, lambda: embedding(INTS, W, "bfloat16")),
    ("x", TypeError, lambda: rms_norm(INTS, BIAS, 1e-6)),
    ("x", ValueError, lambda: rms_norm(X[0, 0], BIAS, 1e-6)),
    ("w", TypeError, lambda: rms_norm(X, INTS, 1e-6)),
    ("w", ValueError, lambda: rms_norm(X, elsewhere(X[0]), 1e-6)),
    ("eps", TypeError, lambda: add_rms_norm(X, None, X[0], None)),
    ("eps", ValueError, lambda: rms_norm(X, X[0], -1e-6)),
    ("w", ValueError, lambda: rms_norm(X, BIAS, 1e-6)),
    ("delta", TypeError, lambda: add_rms_norm(X, INTS, X[0], 1e-6)),
    ("delta", ValueError, lambda: add_rms_norm(X, X[:3], X[0], 1e-6)),
    ("delta", ValueError, lambda: add_rms_norm_quantize(X, X[:3], X[0], 1e-6)),
    ("experts", TypeError, lambda: add_rms_norm_quantize(X, None, X[0], 1e-6, experts=(256,))),
    ("experts", ValueError, lambda: add_rms_norm_quantize(X, None, X[0], 1e-6, experts=(256, 0))),
    ("x.rows", ValueError, lambda: linear(States(X[:5], X_Q), W)),
    ("x.rows", TypeError, lambda: joint_linear(States(X, X), (W,), "fp8")),
    ("h", ValueError, lambda: swiglu(X[:, :31])),
    ("h", ValueError, lambda: swiglu(X[0, 0])),
    ("cos", TypeError, lambda: apply_rope(X, None, X)),
    ("sin", TypeError, lambda: apply_rope(X, X, X.int())),
    ("cos", ValueError, lambda: apply_rope(X, X[:5], X)),
    ("sin", ValueError, lambda: apply_rope(X, X, X[None])),
    ("cos", ValueError, lambda: apply_rope(X, elsewhere(X), X)),
    ("cos", TypeError, lambda: rotate_heads(Q4, Q4[:, :, 0], ANGLES.int(), ANGLES)),
    ("x", ValueError, lambda: apply_rope(X[:, :31], X, X)),
    ("cos", ValueError, lambda: apply_rope(X, X[:, :3], X)),
    ("sin", ValueError, lambda: apply_rope(X, X, X[:, :3])),
    ("k", ValueError, lambda: rotate_heads(Q4, Q4[:, :, 0, :3], ANGLES, ANGLES)),
    ("k", TypeError, lambda: rotate_heads(Q4, Q4[:, :, 0].double(), ANGLES, ANGLES)),
    ("cos", ValueError, lambda: rotate_heads(Q4, Q4[:, :, 0], ANGLES[..., :3], ANGLES)),
    ("sin", ValueError, lambda: rotate_heads(Q4, Q4[:, :, 0], ANGLES, ANGLES[:, :3])),
    ("p", ValueError, lambda: expert_feed_forward(X, torch.rand(6, 3), GATE_UP, EXPERTS_T, GROUPS, "fp8")),
    ("p", TypeError, lambda: expert_feed_forward(X, IDX, GATE_UP, EXPERTS_T, GROUPS, "fp8")),
    ("x", TypeError, lambda: expert_feed_forward(None, P, GATE_UP, EXPERTS_T, GROUPS)),
    ("x", ValueError, lambda: feed_forward(X[0, 0], *DENSE)),
    ("gate_up", TypeError, lambda: feed_forward(X, None, DENSE[1], "fp8")),
    ("down", ValueError, lambda: feed_forward(X, DENSE[0], DENSE[1][0], "fp8")),
    ("gate_up", ValueError, lambda: feed_forward(X, DENSE[0], DENSE[1][:, :15], "fp8")),
    ("tokens", ValueError, lambda: expert_feed_forward(X[:5], P, GATE_UP, EXPERTS_T, GROUPS, "fp8")),
    ("gate_up", ValueError, lambda: expert_feed_forward(X, P, GATE_UP[:7], EXPERTS_T, GROUPS, "fp8")),
    ("down", ValueError, lambda: expert_feed_forward(X, P, GATE_UP, EXPERTS_T[0], GROUPS, "fp8")),
    ("outer dimension", ValueError, lambda: expert_feed_forward(X, P, GATE_UP, EXPERTS_T[:, :31], GROUPS)),
    ("groups.block", ValueError, lambda: expert_feed_forward(X, P, GATE_UP, EXPERTS_T, SMALL, "fp8")),
    ("shared", TypeError, lambda: expert_feed_forward(X, P, GATE_UP, EXPERTS_T, GROUPS, "fp8", DENSE[:1])),
    (
        r"shared\[0\]",
        TypeError,
        lambda: expert_feed_forward(X, P, GATE_UP, EXPERTS_T, GROUPS, "fp8", (None, W)),
    ),
    ("documents", TypeError, lambda: latent_attention(*LATENT, INTS)),
    (
        "documents.starts",
        TypeError,
        lambda: latent_attention(*LATENT, dataclasses.replace(DOCUMENTS, starts=DOCUMENTS.ids)),
    ),
    (
        "documents.ends",
        ValueError,
        lambda: latent_attention(*LATENT, dataclasses.replace(DOCUMENTS, ends=DOCUMENTS.ends[:, :3])),
    ),
    ("scale", TypeError, lambda: attention(Q4, Q4, Q4, None)),
    ("doc_ids", TypeError, lambda: attention(Q4, Q4, Q4, 1.0, ANGLES[..., 0])),
    ("q", ValueError, lambda: attention(Q4[0], Q4, Q4, 1.0)),
    ("k", ValueError, lambda: attention(Q4, Q4[:, :3], Q4, 1.0)),
    ("v", ValueError, lambda: attention(Q4, Q4, Q4[:, :3], 1.0)),
    ("k", TypeError, lambda: attention(Q4, Q4.double(), Q4, 1.0)),
    ("doc_ids", ValueError, lambda: attention(Q4, Q4, Q4, 1.0, torch.zeros(1, 3))),
    ("w", ValueError, lambda: linear_cross_entropy(X, W[:, :31], INTS)),
    ("states", ValueError, lambda: joint_cross_entropy([], W, [])),
    ("heads", ValueError, lambda: joint_cross_entropy([X], W, [INTS], [1.0, 2.0])),
    (r"states\[1\]", TypeError, lambda: joint_cross_entropy([X, X.double()], W, [INTS] * 2)),
    ("z_loss", ValueError, lambda: linear_cross_entropy(X, W, INTS, z_loss=-1.0)),
    ("features", ValueError, lambda: router_logits(X, W[:, :31])),
    ("w", TypeError, lambda: router_logits(X, W.half())),
    ("target", TypeError, lambda: linear_cross_entropy(X, W, INTS.int())),
    ("target", ValueError, lambda: linear_cross_entropy(X, W, INTS[:5])),
    (r"weights\[0\]", TypeError, lambda: joint_cross_entropy([X], W, [INTS], ["1"])),
    ("chunk", TypeError, lambda: linear_cross_entropy(X, W, INTS, 2.5)),
    ("chunk", ValueError, lambda: linear_cross_entropy(X, W, INTS, 0)),
    ("grads", ValueError, lambda: adamw(grads=[])),
    (r"params\[0\]", TypeError, lambda: adamw(params=[torch.zeros(3).double()])),
    (r"m\[0\]", ValueError, lambda: adamw(m=[torch.zeros(4)])),
    (r"v\[0\]", TypeError, lambda: adamw(v=[torch.zeros(3).half()])),
    ("copies", ValueError, lambda: adamw(copies=[])),
    (r"copies\[0\]", ValueError, lambda: adamw(copies=[torch.zeros(4)])),
    (r"copies\[0\]", TypeError, lambda: adamw(copies=[torch.zeros(3).int()])),
    ("lr", ValueError, lambda: adamw(lr=-1.0)),
    ("lr", TypeError, lambda: adamw(lr="0.1")),
    ("betas", TypeError, lambda: adamw(betas=(0.9,))),
    ("clip_coefficient", TypeError, lambda: adamw(clip_coefficient=None)),
    ("clip_coefficient", TypeError, lambda: adamw(clip_coefficient=INTS[0])),
    ("clip_coefficient", ValueError, lambda: adamw(clip_coefficient=X[0])),
    ("clip_coefficient", TypeError, lambda: adamw(clip_coefficient=X[0, 0].double())),
    ("clip_coefficient", ValueError, lambda: adamw(clip_coefficient=elsewhere(X[0, 0]))),
    ("lr", TypeError, lambda: adamw(lr=INTS[0])),
    ("lr", ValueError, lambda: adamw(lr=torch.zeros(0))),
    ("lr", ValueError, lambda: adamw(lr=elsewhere(X[0, 0]))),
    ("step", TypeError, lambda: adamw(step=1.0)),
    ("step", TypeError, lambda: adamw(step=X[0, 0])),
    ("step", ValueError, lambda: adamw(step=INTS)),
    ("step", ValueError, lambda: adamw(step=elsewhere(INTS[0]))),
    ("betas", ValueError, lambda: adamw(betas=(0.9, 1.0))),
    ("eps", ValueError, lambda: adamw(eps=0.0)),
    ("weight_decay", ValueError, lambda: adamw(weight_decay=-0.1)),
    ("step", ValueError, lambda: adamw(step=0)),
    ("grads", TypeError, lambda: gradient_norm(X)),
    (r"grads\[1\]", TypeError, lambda: gradient_norm([X, None])),
    (r"grads\[1\]", TypeError, lambda: gradient_norm([X, X.double()])),
    (r"grads\[1\]", ValueError, lambda: gradient_norm([X, elsewhere(X)])),
    ("unknown op", ValueError, lambda: registry.backend("gem")),
    ("unknown backend", ValueError, lambda: registry.override("gemm", "cuda").__enter__()),
    ("unknown backend", ValueError, lambda: registry.override("permute", "gluon").__enter__()),
]


@pytest.mark.parametrize(("name", "error", "call"), CASES)
def test_a_bad_argument_is_named(name: str, error: type[Exception], call: Callable[[], object]) -> None:
    with pytest.raises(error, match=f"^{name}"):
        call()


def test_the_environment_chooses_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KERNELS", "gemm=triton, wgrad=reference")
    assert registry.backend("gemm") == "triton"
    assert registry.backend("wgrad") == "reference"
    with registry.override("gemm", "reference"):
        assert registry.backend("gemm") == "reference"
    for text in ("gemm", "gem=triton", "gemm=cuda"):
        monkeypatch.setenv("PENSTOCK_KERNELS", text)
        with pytest.raises(ValueError, match="gem"):
            registry.backend("gemm")
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", "v4")
    with pytest.raises(ValueError, match="PENSTOCK_FP8_RECIPE"):
        registry.wgrad_recipe()


@pytest.mark.parametrize(
    ("op", "name", "capability", "instead"),
    [
        ("gemm", "gluon", (8, 9), "triton"),
        ("gemm", "gluon", (10, 0), "triton"),
        ("swiglu_quantize", "triton", (8, 0), "reference"),
        ("grouped_mm", "torch", (8, 0), "reference"),
        ("wgrad", "torch", (8, 9), "triton"),
        ("wgrad", "torch", (10, 0), "triton"),
        ("gemm", "torch", (12, 0), "triton"),
    ],
)
def test_a_gpu_that_cannot_run_a_kernel_is_told_what_would_run(
    op: str, name: str, capability: tuple[int, int], instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "capability", lambda _: capability)
    card = torch.device("cuda", 0)
    assert registry.backend(op, card) == instead
    message = f"^{op}: backend {name} needs .*{capability[0]}.{capability[1]}; .* {instead} would run"
    with registry.override(op, name), pytest.raises(ValueError, match=message):
        registry.backend(op, card)
    with registry.override(op, "reference"):
        assert registry.backend(op, card) == "reference"


def test_the_library_multiplies_bfloat16_of_experts_on_later_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "capability", lambda _: (10, 0))
    assert registry.backend("grouped_mm", torch.device("cuda", 0)) == "torch"


@pytest.mark.parametrize("op", ["gemm", "wgrad"])
def test_the_library_multiplies_fp8_only_if_asked_to(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "capability", lambda _: (9, 0))
    card = torch.device("cuda", 0)
    assert registry.backend(op, card) == "gluon"
    with registry.override(op, "torch"):
        assert registry.backend(op, card) == "torch"


@pytest.mark.parametrize(
    ("op", "name"), [("adamw", "gluon"), ("gemm", "triton"), ("gemm", "torch"), ("wgrad", "torch")]
)
def test_a_kernel_is_refused_on_a_cpu(op: str, name: str) -> None:
    message = f"^{op}: backend {name} needs a GPU, .* on the CPU; .* reference would run"
    with registry.override(op, name), pytest.raises(ValueError, match=message):
        registry.backend(op, torch.device("cpu"))


def test_scales_between_two_words_of_memory_are_not_for_tma() -> None:
    place = torch.empty(5)[1:].view(1, 4)
    product = forward(dataclasses.replace(quantize_rows(X[:4]), scale=place), W_Q, False, torch.empty(4, 16))
    assert not movable(product)
    assert movable(dataclasses.replace(product, a_scale=place.clone()))

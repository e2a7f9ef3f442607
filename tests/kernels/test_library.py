"""Kernels as ops of PyTorch: schemas, fake results beside real ones, ``torch.library.opcheck``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from penstock.kernels import (
    adamw,  # noqa: F401  (importing a package registers its ops)
    cross_entropy,  # noqa: F401
    embedding,  # noqa: F401
    gradient_norm,  # noqa: F401
    library,
)
from penstock.kernels.feed_forward import expert_feed_forward  # noqa: F401
from penstock.kernels.quantize import quantize_rows, quantize_tokens, quantize_weight, transpose_shift
from penstock.kernels.route import route_tables
from penstock.kernels.types import Groups

Arguments = tuple[Any, ...]


def tables(tokens: int, experts: int = 4) -> Groups:
    idx = torch.randint(0, experts, (tokens, 2), dtype=torch.int32)
    return route_tables(idx, experts, torch.arange(tokens) % 5 != 1, block=128)


def casts(m: int, k: int) -> list[tuple[str, Arguments]]:
    x, q = torch.randn(m, k), quantize_rows(torch.randn(m, k))
    h, ds = torch.randn(m, 2 * k, dtype=torch.bfloat16), torch.randn(m, k, dtype=torch.bfloat16)
    picked = torch.randint(-1, m, (m + 3,), dtype=torch.int32)
    return [
        ("quantize_rows", (x, True)),
        ("quantize_rows", (x.bfloat16().t(), False)),
        ("quantize_tokens", (x, True)),
        ("quantize_both", (x, True)),
        ("quantize_both", (x.bfloat16().t(), False)),
        ("quantize_weight", (x, quantize_weight(torch.zeros(m, k)).parts, True)),
        ("quantize_weight", (x.expand(2, m, k), quantize_weight(torch.zeros(2, m, k)).parts, False)),
        ("transpose_shift", (q.parts, None)),
        ("transpose_shift", (q.parts, picked)),
        ("swiglu_quantize", (h,)),
        ("swiglu_backward_quantize", (ds, h, None)),
        ("swiglu_backward_quantize", (ds, h, torch.rand(m))),
    ]


def products(m: int, k: int) -> list[tuple[str, Arguments]]:
    n = 48
    a, w = quantize_rows(torch.randn(m, k)), quantize_weight(torch.randn(n, k))
    g, g_t, x_t = torch.randn(m, n), quantize_tokens(torch.randn(m, n)), quantize_tokens(torch.randn(m, k))
    shifted = [transpose_shift(quantize_rows(t)) for t in (g, torch.randn(m, k))]
    found: list[tuple[str, Arguments]] = [
        ("gemm", (a.parts, w.parts, False, torch.bfloat16)),
        ("gemm", (quantize_rows(g).parts, w.parts, True, torch.float32)),
        ("gemm_out", (a.parts, w.parts, False, torch.empty(m, n))),
        ("wgrads", ([*g_t.parts] * 2, [*x_t.parts] * 2, [torch.ones(n, k), torch.ones(n, k)], False, True)),
        ("wgrads", (shifted[0].parts, shifted[1].parts, [torch.ones(n, k)], True, False)),
    ]
    return found + [("outer", (torch.ones(n, k), g, torch.randn(m, k), add)) for add in (False, True)]


def expert_products(m: int, k: int) -> list[tuple[str, Arguments]]:
    groups = tables(m)
    rows, n = groups.n_rows, 64
    x, g = torch.randn(rows, k), torch.randn(rows, n)
    a, w = quantize_rows(x).parts, quantize_weight(torch.randn(4, n, k)).parts
    g_t, x_t = quantize_tokens(g).parts, quantize_tokens(x).parts
    return [
        ("grouped_gemm", (a, w, groups.parts, False, torch.bfloat16)),
        ("grouped_gemm", (quantize_rows(g).parts, w, groups.parts, True, torch.float32)),
        ("grouped_gemm_out", (a, w, groups.parts, False, torch.empty(rows, n))),
        ("grouped_wgrad", (g_t, x_t, groups.parts, torch.ones(4, n, k), False, True)),
        ("grouped_mm", (x, torch.randn(4, k, n), groups.parts)),
        ("grouped_outer", (torch.ones(4, n, k), g, x, groups.parts, False)),
    ]


def moves(m: int, k: int) -> list[tuple[str, Arguments]]:
    groups = tables(m)
    x, y, p = torch.randn(m, k), torch.randn(groups.n_rows, k).bfloat16(), torch.rand(m, 2)
    idx = torch.randint(0, 4, (m, 2), dtype=torch.int32)
    return [
        ("gather_rows", (x, groups.parts)),
        ("gather_quantized", (quantize_rows(x).parts, groups.parts)),
        ("gather_sum", (y, None, groups.token_pos, None)),
        ("gather_sum", (y, p, groups.token_pos, x.bfloat16())),
        ("spread_rows", (x, p, groups.parts)),
        ("row_dots", (x.bfloat16(), y, groups.parts)),
        ("route_tables", (idx, 4, None, 128, groups.n_rows)),
        ("route_tables", (idx, 4, torch.arange(m) % 3 > 0, 1, 2 * m)),
    ]


def rest(m: int, k: int) -> list[tuple[str, Arguments]]:
    tokens, weight = torch.randint(0, m, (3, 7)), torch.randn(m, k)
    numbers, hyper = torch.tensor([1e-3, 1.0, 0.1, 0.05]), (0.9, 0.95, 1e-8, 0.1)
    state = (torch.zeros(m, k).bfloat16(), torch.zeros(m, k).bfloat16())
    target = torch.randint(0, k, (m,))
    return [
        ("embedding", (tokens, weight, torch.bfloat16)),
        ("embedding_gradient", (tokens.flatten(), torch.randn(21, k), torch.zeros(m, k))),
        ("cross_entropy_rows", (torch.randn(m, k), target, True, 0.5, 1e-3)),
        ("cross_entropy_rows", (torch.randn(m, k).bfloat16(), target, False, 1.0, 0.0)),
        *[
            ("adamw", (weight, torch.randn(m, k), *state, copy, numbers, hyper))
            for copy in ((), (weight.bfloat16(),), quantize_weight(weight).parts)
        ],
        ("gradient_norm", ([weight, weight[0].bfloat16(), weight[:0]],)),
        ("gradient_norm", ([torch.randn(200, 200).t()],)),
    ]


def only_on_gpu(m: int, k: int) -> list[tuple[str, Arguments]]:
    """What a CPU leaves to plain PyTorch."""
    x, w = torch.randn(2, m, k).bfloat16(), torch.randn(k)
    q, shared = torch.randn(2, m, 3, 48).bfloat16(), torch.randn(2, m, 16).bfloat16()
    kv, angles = torch.randn(2, m, 3, 64).bfloat16(), torch.randn(1, m, 16)
    q_nope, q_rope = torch.empty(2, m, 3, 32).bfloat16(), torch.empty(2, m, 3, 16).bfloat16()
    lse, out = torch.randn(2, 3, m), torch.randn(2, m, 3, 32).bfloat16()
    bounds = torch.zeros(2, m, dtype=torch.int32), torch.full((2, m), m, dtype=torch.int32)
    scores, valid = torch.rand(2, m, 16), torch.arange(2 * m).view(2, m) % 3 > 0
    idx = torch.zeros(2 * m, 2, dtype=torch.int32)
    flat, gate, logits = x.flatten(0, 1), torch.randn(16, k), scores.flatten(0, 1)
    attended = (q[..., :32], q_rope, kv, shared, 0.1)
    v = torch.randn(2, m, 3, 128).bfloat16()
    wide_angles = torch.randn(1, m, 64), torch.randn(1, m, 64)
    wide = (v.clone(), q_rope, torch.cat([v, v], -1), shared, 0.1)
    places = torch.randint(-1, 40, (2 * m, 2), dtype=torch.int32)
    due = [torch.randn(40, k).bfloat16(), torch.rand(2 * m, 2), places]
    return [
        ("add_rms_norm", (x, None, [], w, 1e-6, True, False)),
        ("add_rms_norm", (x, x.clone(), [], w, 1e-6, True, True)),
        ("add_rms_norm", (x, x.clone(), due, w, 1e-6, False, True)),
        ("add_rms_norm", (x, None, due, w, 1e-6, True, True)),
        ("add_rms_norm_backward", (None, x, None, [], x.clone(), w, torch.rand(2 * m), False, False)),
        ("add_rms_norm_backward", (x, x.clone(), x.clone(), [], x.clone(), w, torch.rand(2 * m), True, True)),
        ("add_rms_norm_backward", (None, None, x, [flat, idx], x.clone(), w, torch.rand(2 * m), True, False)),
        ("swiglu", (x,)),
        ("swiglu_backward", (x[..., : k // 2].contiguous(), x)),
        ("rotate_heads", (q, shared, angles, angles, True)),
        ("rotate_heads_backward", (q_nope, q_rope, shared, angles, angles, False)),
        (
            "rotate_heads_backward_rows",
            (v, v[..., :64].contiguous(), v[:, :, 0, :64].contiguous(), *wide_angles, True),
        ),
        ("route", (logits, torch.zeros(16), 4, 2, 2, 2.5, True)),
        ("route_backward", (torch.rand(2 * m, 2), logits.clone(), idx, logits, 2.5, True)),
        ("balance_loss", (scores, idx.view(2, m, 2), valid)),
        ("balance_loss_backward", (torch.ones(2), torch.rand(2, 16), scores, None)),
        ("router_logits", (flat, gate)),
        ("router_logits_backward_input", (logits, gate, flat)),
        ("router_logits_backward_weight", (logits, flat, gate)),
        ("latent_attention", (*attended, None, False)),
        ("latent_attention", (*attended, bounds[0], False)),
        ("latent_attention", (*wide, bounds[0], True)),
        ("latent_attention_backward", (out, out.clone(), lse, *attended, *bounds, False)),
        ("latent_attention_backward", (v, v.clone(), lse, *wide, *bounds, True)),
    ]


# Where ops of ``only_on_gpu`` are declared: modules that are imported where a GPU runs them.
ON_GPU = (
    "attention.latent", "mla.rope_triton", "norm.autograd", "route.balance_triton", "route.logits_triton",
    "route.route_triton", "swiglu.swiglu_triton",
)  # fmt: skip

SETS = (casts, products, expert_products, moves, rest)
SHAPES = ((128, 256), (130, 96), (3, 16))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("made", SETS, ids=lambda f: f.__name__)
def test_ops_are_what_they_say(
    made: Callable[[int, int], list[tuple[str, Arguments]]], shape: tuple[int, int]
) -> None:
    for name, arguments in made(*shape):
        check_op(name, arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("made", [*SETS, only_on_gpu], ids=lambda f: f.__name__)
def test_ops_are_what_they_say_on_a_gpu(made: Callable[[int, int], list[tuple[str, Arguments]]]) -> None:
    for module in ON_GPU:
        import_module(f"penstock.kernels.{module}")
    with torch.device("cuda"):
        found = made(130, 256)
    for name, arguments in found:
        check_op(name, arguments)


def test_every_op_is_checked() -> None:
    checked = {name for made in (*SETS, only_on_gpu) for name, _ in made(16, 16)}
    assert set(library.names()) <= checked


def test_what_has_no_schema_is_refused() -> None:
    def _untyped(x: Tensor, y: dict[str, int]) -> Tensor:
        return x

    with pytest.raises(TypeError, match="_untyped: expected annotations among"):
        library.op(fake=library.writes)(_untyped)
    with pytest.raises(TypeError, match="_named"):

        @library.op(fake=library.writes, mutates=("z",))
        def _named(x: Tensor) -> None: ...


def check_op(name: str, arguments: Arguments) -> None:
    """``opcheck``; that a fake result is laid out as the real one; that only what is declared is written."""
    overload = getattr(torch.ops.penstock, name).default
    arguments = tuple(list(a) if isinstance(a, tuple) else a for a in arguments)
    # Its test of schemas cannot compare FP8, so what it would find is checked below.
    # On a GPU rows that belong to no expert hold anything, so two runs of an op cannot be compared.
    on_gpu = any(t.is_cuda for t in tensors(arguments))
    more = () if on_gpu else ("test_aot_dispatch_dynamic",)
    torch.library.opcheck(overload, arguments, test_utils=("test_faketensor", *more))
    with FakeTensorMode() as mode:
        fake = overload(*tree_map_only(Tensor, mode.from_tensor, arguments))
    before = tree_map_only(Tensor, torch.clone, arguments)
    real = overload(*arguments)
    assert [layout(t) for t in tensors(fake)] == [layout(t) for t in tensors(real)], name
    written = [a.alias_info is not None and a.alias_info.is_write for a in overload._schema.arguments]
    for argument, copy, may_change in zip(arguments, before, written, strict=True):
        same = [torch.equal(bits(t), bits(c)) for t, c in zip(tensors(argument), tensors(copy), strict=True)]
        assert may_change or all(same), name
    given = {t.data_ptr() for t in tensors(arguments) if t.numel()}
    assert not given & {t.data_ptr() for t in tensors(real) if t.numel()}, name


def tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.uint8) if t.ndim else t


def layout(t: Tensor) -> tuple[Any, ...]:
    """A stride along one element says nothing."""
    strides = [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]
    return t.shape, t.dtype, strides, t.device.type

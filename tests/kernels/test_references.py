"""The ops a model calls, on a CPU: against float64, numerical gradients, and programs written elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from penstock.kernels import registry
from penstock.kernels.adamw import adamw_step
from penstock.kernels.attention import attention
from penstock.kernels.cross_entropy import joint_cross_entropy, linear_cross_entropy
from penstock.kernels.embedding import embedding
from penstock.kernels.feed_forward import expert_feed_forward, feed_forward
from penstock.kernels.gemm import (
    accumulate_in_place,
    gemm,
    joint_linear,
    linear,
    quantized_weight,
    refresh_copies,
    wgrad,
)
from penstock.kernels.gemm.weights import cast_weight
from penstock.kernels.gradient_norm import gradient_norm
from penstock.kernels.grouped_gemm import grouped_linear
from penstock.kernels.mla import apply_rope, rotate_heads
from penstock.kernels.norm import add_rms_norm, add_rms_norm_quantize, rms_norm
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute import permute
from penstock.kernels.quantize import (
    dequantize,
    quantize_rows,
    quantize_tokens,
    quantize_weight,
    transpose_shift,
)
from penstock.kernels.route import route_tables
from penstock.kernels.swiglu import swiglu
from penstock.kernels.types import aligned

DOUBLE = torch.float64


def leaf(*shape: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def test_gradients_are_exact() -> None:
    check = torch.autograd.gradcheck
    doc_ids = torch.tensor([[0, 0, 1, 1, -1], [0, 0, 0, 0, 0]])
    cos, sin = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    assert check(lambda x, w: linear(x, w, "fp32"), (leaf(2, 3, 8), leaf(5, 8)))
    assert check(lambda x, w: rms_norm(x, w, 1e-6), (leaf(3, 8), leaf(8)))
    assert check(lambda x, d, w: add_rms_norm(x, d, w, 1e-6), (leaf(3, 8), leaf(3, 8), leaf(8)))
    assert check(swiglu, (leaf(3, 8),))
    assert check(lambda w: embedding(torch.tensor([[3, 0], [3, 3]]), w, DOUBLE), (leaf(5, 4),))
    for interleaved in (True, False):
        assert check(lambda x, i=interleaved: apply_rope(x, cos, sin, i), (leaf(2, 5, 6),))
        heads = lambda q, k, i=interleaved: rotate_heads(q, k, cos[None], sin[None], i)  # noqa: E731
        assert check(heads, (leaf(2, 5, 3, 10), leaf(2, 5, 6)))
    for ids in (None, doc_ids):
        inputs = (leaf(2, 5, 3, 6), leaf(2, 5, 3, 6), leaf(2, 5, 3, 4))
        assert check(lambda q, k, v, d=ids: attention(q, k, v, 0.4, d), inputs)


def test_norm_rope_and_attention_equal_those_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as hf

    x, w = torch.randn(3, 7, 64).bfloat16(), torch.randn(64)
    norm = hf.DeepseekV3RMSNorm(64, 1e-5).bfloat16()
    norm.weight.data.copy_(w)
    assert same_bits(rms_norm(x, w, 1e-5), norm(x).detach())

    q, k = torch.randn(2, 4, 9, 16), torch.randn(2, 1, 9, 16)
    angles = torch.randn(2, 9, 8)
    cos, sin = (f(torch.cat((angles, angles), -1)) for f in (torch.cos, torch.sin))
    for rotate, interleaved in ((hf.apply_rotary_pos_emb_interleave, True), (hf.apply_rotary_pos_emb, False)):
        q_expected, k_expected = rotate(q, k, cos, sin)
        wide = (cos[:, None], sin[:, None])
        assert torch.allclose(apply_rope(q, *wide, interleaved), q_expected, atol=1e-6)
        assert torch.allclose(apply_rope(k, *wide, interleaved), k_expected, atol=1e-6)
        nope = torch.randn(2, 9, 4, 5)
        q_whole, k_whole = torch.cat((nope, q.transpose(1, 2)), -1), k[:, 0]
        parts = rotate_heads(q_whole, k_whole, cos, sin, interleaved)
        assert torch.equal(parts[0], nope)
        assert torch.allclose(parts[1].transpose(1, 2), q_expected, atol=1e-6)
        assert torch.allclose(parts[2][:, None], k_expected, atol=1e-6)
        assert torch.equal(
            apply_rope(q, *(t[..., :8] for t in wide), interleaved), apply_rope(q, *wide, interleaved)
        )


def test_attention_does_not_look_ahead_or_across_documents() -> None:
    q, k, v = (torch.randn(1, 12, 2, 8) for _ in range(3))
    ids = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3])
    whole = attention(q, k, v, 0.3, ids)
    for start, end in ((0, 5), (5, 9), (9, 12)):
        part = slice(start, end)
        assert torch.allclose(whole[:, part], attention(q[:, part], k[:, part], v[:, part], 0.3), atol=1e-6)
    with registry.override("attention", "reference"):
        assert torch.allclose(whole, attention(q, k, v, 0.3, ids), atol=1e-6)


def test_heads_that_share_an_output_layer_add_up() -> None:
    states, w = [leaf(50, 16, dtype=torch.float32) for _ in range(3)], leaf(300, 16, dtype=torch.float32)
    targets = [torch.randint(0, 300, (50,)) for _ in states]
    targets[1][:20] = -100
    weights, z_loss = (1.0, 0.15, 0.4), 1e-2
    expected, sums = torch.zeros((), dtype=DOUBLE), []
    for x, target, weight in zip(states, targets, weights, strict=True):
        logits = x.double() @ w.double().t()
        sums.append(F.cross_entropy(logits, target, reduction="sum"))
        square = (logits.logsumexp(-1).square() * (target != -100)).sum()
        expected = expected + weight * (sums[-1] + z_loss * square)
    wanted = torch.autograd.grad(expected * 3, (*states, w))
    for chunk in (7, 50):
        losses = joint_cross_entropy(states, w, targets, weights, chunk, "fp32", z_loss)
        assert relative_error(losses.total, expected) < 1e-6
        assert relative_error(torch.stack(losses.heads), torch.stack(sums)) < 1e-6
        assert not any(loss.requires_grad for loss in losses.heads)
        found = torch.autograd.grad(losses.total * 3, (*states, w))
        for a, b in zip(found, wanted, strict=True):
            assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "value_gate", "gate"), [(torch.float32, 1e-6, 1e-5), (DOUBLE, 1e-14, 1e-13)]
)
def test_the_loss_equals_torchs_for_any_chunk(dtype: torch.dtype, value_gate: float, gate: float) -> None:
    x, w = leaf(50, 16, dtype=dtype), leaf(300, 16, dtype=dtype)
    target = torch.randint(0, 300, (50,))
    target[[3, 7]] = -100
    expected = F.cross_entropy(x.double() @ w.double().t(), target, reduction="sum")
    gradients = torch.autograd.grad(expected, (x, w))
    for chunk in (1, 16, 50, 8192):
        loss = linear_cross_entropy(x, w, target, chunk, "fp32")
        assert loss.dtype == dtype
        assert relative_error(loss, expected) < value_gate
        for found, wanted in zip(torch.autograd.grad(loss * 3, (x, w)), gradients, strict=True):
            assert relative_error(found, 3 * wanted) < gate
    with torch.no_grad():
        assert not linear_cross_entropy(x, w, target, 16, "fp32").requires_grad
    assert linear_cross_entropy(x[:0], w, target[:0], 16, "fp32").backward() is None
    assert torch.equal(w.grad, torch.zeros_like(w))
    assert linear_cross_entropy(x, w, torch.full((50,), -100), 16, "fp32") == 0


def test_a_second_backward_through_a_loss_is_refused() -> None:
    """Its gradients were scaled where they lie."""
    x, w = leaf(5, 8), leaf(6, 8)
    loss = linear_cross_entropy(x, w, torch.arange(5), 4, "fp32")
    torch.autograd.grad(loss, (x, w), retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(loss, (x, w))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_equals_torchs(weight_decay: float) -> None:
    ours, theirs = torch.randn(20, 30), None
    theirs = ours.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)
    m, v = torch.zeros_like(ours), torch.zeros_like(ours)
    for step in range(1, 11):
        grad = torch.randn(20, 30)
        theirs.grad = grad * 0.5
        optimizer.step()
        clip = torch.tensor([0.5]) if step % 2 else 0.5
        adamw_step([ours], [grad], [m], [v], 1e-2, (0.9, 0.95), 1e-8, weight_decay, step, clip)
        assert relative_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_adamw_reads_numbers_from_tensors_as_from_the_host(shape: tuple[int, ...]) -> None:
    """Also the step, whose first corrections are small differences, and what is written there afterwards."""
    start, grads = torch.randn(300), torch.randn(20, 300)
    states = [[start.clone(), torch.zeros(300), torch.zeros(300)] for _ in range(2)]
    held = torch.zeros(shape), torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
    for i, grad in enumerate(grads):
        given = 0.1 / (i + 1), i + 1, 0.9**i
        for tensor, number in zip(held, given, strict=True):
            tensor.fill_(number)
        for state, (lr, step, clip) in zip(states, (given, held), strict=True):
            p, m, v = ([t] for t in state)
            adamw_step(p, [grad], m, v, lr, (0.9, 0.999), step=step, clip_coefficient=clip)
    for a, b in zip(*states, strict=True):
        assert same_bits(a, b)


def test_adamw_without_betas_is_a_step_by_the_sign() -> None:
    for step in (3, torch.tensor(3, dtype=torch.int32)):
        p, grad = torch.zeros(100), torch.randn(100)
        adamw_step([p], [grad], [torch.zeros(100)], [torch.zeros(100)], 1e-2, (0.0, 0.0), step=step)
        assert relative_error(p, -1e-2 * grad.sign()) < 1e-5  # eps


def test_adamw_keeps_its_moments_in_bfloat16() -> None:
    p, m, v = torch.randn(1000), torch.zeros(1000).bfloat16(), torch.zeros(1000).bfloat16()
    exact = [p.clone(), m.float(), v.float()]
    for step in range(1, 21):
        grad = torch.randn(1000)
        adamw_step([p], [grad], [m], [v], 1e-3, step=step)
        adamw_step(exact[:1], [grad], exact[1:2], exact[2:], 1e-3, step=step)
    assert m.dtype == v.dtype == torch.bfloat16
    assert relative_error(v, exact[2]) < 1e-2
    assert relative_error(p, exact[0]) < 1e-4


def test_gradient_norm_is_that_of_all_elements() -> None:
    grads = [torch.randn(7), torch.randn(300, 500).bfloat16(), torch.randn(40, 30).t(), torch.empty(0, 5)]
    grads.append(torch.tensor(3.0, requires_grad=True))
    exact = torch.cat([g.flatten().double() for g in grads]).norm()
    found = gradient_norm(grads)
    assert (found.dtype, found.shape, found.requires_grad) == (torch.float32, (), False)
    assert relative_error(found, exact) < 1e-7
    assert relative_error(found, torch.nn.utils.get_total_norm([g.float() for g in grads])) < 1e-5
    assert gradient_norm([]) == gradient_norm(grads[3:4]) == 0


def test_gradient_norm_is_infinite_where_second_moments_would_be() -> None:
    for count, size in ((100, 1e18), (200, 1.2e18), (400, 1e18), (1, 1e30), (1, torch.inf), (2, -torch.inf)):
        grads = [torch.full((count,), size), torch.ones(3)]
        found, theirs = gradient_norm(grads), torch.nn.utils.get_total_norm(grads)
        assert torch.isclose(found, theirs, rtol=1e-6), (count, size)
        assert found.isfinite() == (count * size**2 < torch.finfo(torch.float32).max)
    assert gradient_norm([torch.tensor([torch.inf]), torch.tensor([torch.nan, 1.0])]).isnan()


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 128, 128), (37, 576, 300), (130, 64, 64)])
def test_fp8_products_are_those_of_what_the_bytes_stand_for(m: int, n: int, k: int, power: bool) -> None:
    x, w, g = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
    x_q, w_q, g_q = quantize_rows(x, power), quantize_weight(w, power_of_two=power), quantize_rows(g, power)
    x_d, w_d, g_d = (dequantize(q).double() for q in (x_q, w_q, g_q))
    assert relative_error(gemm(x_q, w_q, out_dtype=torch.float32), x_d @ w_d.t()) < 1e-6
    assert relative_error(gemm(g_q, w_q, transposed=True), g_d @ w_d) < 2e-3
    for cast in (lambda t: quantize_tokens(t, power), lambda t: transpose_shift(quantize_rows(t))):
        expected = dequantize(cast(g)).double() @ dequantize(cast(x)).double().t()
        start = torch.randn(n, k)
        assert relative_error(wgrad(cast(g), cast(x)), expected) < 1e-6
        assert (
            relative_error(wgrad(cast(g), cast(x), start.clone(), accumulate=True), start + expected) < 1e-6
        )


@pytest.mark.parametrize("experts", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["v3", "shift"])
def test_fp8_layers_are_close_to_exact_ones(
    recipe: str, dtype: torch.dtype, experts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    groups = route_tables(torch.randint(0, 4, (100, 2)).int(), 5)
    rows, upstream = (permute(torch.randn(100, size), groups).to(dtype) for size in (256, 192))
    master = torch.randn(experts, 192, 256) if experts else torch.randn(192, 256)
    results = []
    for precision in ("fp32", "fp8"):
        x, w = rows.clone().requires_grad_(), master.clone().requires_grad_()
        y = grouped_linear(x, w, groups, precision) if experts else linear(x, w, precision)
        y.backward(upstream)
        assert y.dtype == x.grad.dtype == dtype
        assert w.grad.dtype == torch.float32
        results.append((y, x.grad, w.grad))
    for exact, found in zip(*results, strict=True):
        assert 0.03 < relative_error(found, exact) < 0.045  # two roundings to E4M3, each 0.0266


@pytest.mark.parametrize(("experts", "width"), [(False, 128), (True, 128), (False, 192)])
def test_fp8_feed_forward_errs_as_its_roundings_do(
    experts: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipe shift runs from one end to the other in FP8, and errs no more than casting anew every time."""
    idx = torch.stack([torch.randperm(6)[:2] for _ in range(300)]).int()
    groups = route_tables(idx, 6, torch.rand(300) > 0.1)
    stack = (6,) if experts else ()
    given = (
        torch.randn(300, 256),
        torch.rand(300, 2),
        torch.randn(*stack, 2 * width, 256) / 16,
        torch.randn(*stack, 256, width) / 11,
    )
    up = torch.randn(300, 256)

    def run(precision: str) -> list[Tensor]:
        x, p, gate_up, down = (t.clone().requires_grad_() for t in given)
        if experts:
            y = expert_feed_forward(x, p, gate_up, down, groups, precision)
        else:
            y = feed_forward(x, gate_up, down, precision) * p.sum(1, keepdim=True)
        y.backward(up)
        return [y, x.grad, p.grad, gate_up.grad, down.grad]

    exact = run("fp32")
    errors = {}
    for recipe in ("v3", "shift"):
        monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
        errors[recipe] = [relative_error(a, b) for a, b in zip(run("fp8"), exact, strict=True)]
    for v3, shift in zip(errors["v3"], errors["shift"], strict=True):
        assert 0.06 < shift < 0.075
        assert shift == pytest.approx(v3, rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_a_shared_layer_beside_the_experts_is_added(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", "shift")
    groups = route_tables(torch.randint(0, 6, (300, 2)).int(), 6, torch.rand(300) > 0.1)
    shapes = ((300, 128), (300, 2), (6, 256, 128), (6, 128, 128), (512, 128), (128, 256))
    given, up, results = [torch.randn(shape) / 8 for shape in shapes], torch.randn(300, 128), []
    for together in (True, False):
        x, p, gate_up, down, *shared = leaves = [t.clone().requires_grad_() for t in given]
        if together:
            y = expert_feed_forward(x, p, gate_up, down, groups, precision, tuple(shared))
        else:
            y = expert_feed_forward(x, p, gate_up, down, groups, precision)
            y = y + feed_forward(x, *shared, precision)
        y.backward(up)
        results.append((y, *(t.grad for t in leaves)))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-6


def test_a_weight_is_quantised_once_for_each_of_its_versions() -> None:
    w = torch.nn.Parameter(torch.randn(128, 128))
    first = quantized_weight(w)
    assert quantized_weight(w) is first
    before = first.data.clone()
    with torch.no_grad():
        w.add_(1.0)
    assert quantized_weight(w).data.data_ptr() == first.data.data_ptr(), "a CUDA graph reads it where it was"
    assert not same_bits(first.data, before)
    assert same_bits(first.data, quantize_weight(w.detach()).data)
    w.data = torch.randn(128, 128)
    assert same_bits(quantized_weight(w).data, quantize_weight(w.detach()).data)
    assert quantized_weight(copy.deepcopy(w)) is not quantized_weight(w)
    w.data = torch.randn(256, 128)
    assert quantized_weight(w).data.shape == (256, 128)


def test_a_norm_for_products_is_the_norm_and_its_cast() -> None:
    x, delta, w = torch.randn(2, 30, 200).bfloat16(), torch.randn(2, 30, 200).bfloat16(), torch.randn(200)
    total, states = add_rms_norm_quantize(x, delta, w, 1e-6)
    for a, b in zip((total, states.values), add_rms_norm(x, delta, w, 1e-6), strict=True):
        assert same_bits(a, b)
    expected = quantize_rows(states.values.flatten(0, 1))
    assert same_bits(states.rows.data, expected.data)
    assert same_bits(states.rows.scale, expected.scale)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize("recipe", ["v3", "shift"])
def test_a_joint_product_is_that_of_each_weight(
    precision: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    x, first, second = leaf(2, 40, 128, dtype=torch.float32), torch.randn(96, 128), torch.randn(64, 128)
    joint, alone = ([w.clone().requires_grad_() for w in (first, second)] for _ in range(2))
    accumulate_in_place([joint[1]])
    found = joint_linear(x, joint, precision)
    expected = tuple(linear(x, w, precision) for w in alone)
    ups = [torch.randn_like(y) for y in expected]
    torch.autograd.backward(found, ups)
    dx, x.grad = x.grad, None
    torch.autograd.backward(expected, ups)
    for a, b in zip((*found, dx), (*expected, x.grad), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(joint, alone, strict=True):
        assert relative_error(a.grad, b.grad) < 1e-6


def test_copies_of_a_changed_weight_are_refreshed_where_they_lie() -> None:
    w, other = torch.nn.Parameter(torch.randn(128, 128)), torch.nn.Parameter(torch.randn(4, 4))
    fp8, bf16 = quantized_weight(w), cast_weight(w, torch.bfloat16)
    adamw_step([w.data], [torch.randn(128, 128)], [torch.zeros(128, 128)], [torch.zeros(128, 128)], 0.1)
    with torch.no_grad():
        w.mul_(3.0)
    refresh_copies([w, other])
    assert same_bits(fp8.data, quantize_weight(w.detach()).data)
    assert same_bits(bf16, w.detach().bfloat16())


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_gradients_accumulate_in_place_when_asked_to(precision: str) -> None:
    x = torch.randn(64, 128)
    plain = torch.nn.Parameter(torch.randn(96, 128))
    fused = torch.nn.Parameter(plain.detach().clone())
    accumulate_in_place([fused])
    for _ in range(3):
        linear(x, plain, precision).square().sum().backward()
        linear(x, fused, precision).square().sum().backward()
    assert relative_error(fused.grad, plain.grad) < 1e-6
    address = fused.grad.data_ptr()
    linear(x, fused, precision).sum().backward()
    assert fused.grad.data_ptr() == address
    tokens = torch.randint(0, 96, (2, 32))
    for w in (plain, fused):
        w.grad = None
        for _ in range(2):
            embedding(tokens, w, torch.bfloat16).square().sum().backward()
    assert relative_error(fused.grad, plain.grad) < 1e-6
    target = torch.randint(0, 96, (64,))
    for w in (plain, fused):
        w.grad = None
        for _ in range(2):
            (linear_cross_entropy(x, w, target, 16, "fp32") * 0.3).backward()
    assert relative_error(fused.grad, plain.grad) < 1e-6
    with pytest.raises(ValueError, match=r"weights\[0\]"):
        accumulate_in_place([torch.randn(2)])


def test_bf16_layers_sum_weight_gradients_in_float32() -> None:
    x, w = torch.randn(4096, 8), leaf(8, 8, dtype=torch.float32)
    linear(x, w, "bf16").backward(torch.ones(4096, 8))
    expected = torch.ones(8, 4096, dtype=DOUBLE) @ x.bfloat16().double()
    assert relative_error(w.grad, expected) < 1e-6


def test_what_tma_reads_is_made_of_any_view() -> None:
    """Whole rows from a multiple of 16 bytes on: a copy of a transposed view would be transposed too."""
    memory = torch.arange(8 * 64 + 1).bfloat16()
    for x in (memory[:-1].view(8, 64), memory[1:].view(8, 64), memory[1:].view(64, 8).t()):
        found = aligned(x)
        assert found.is_contiguous()
        assert found.data_ptr() % 16 == 0
        assert torch.equal(found, x)
    assert aligned(memory[:-1]).data_ptr() == memory.data_ptr(), "no copy where none is needed"

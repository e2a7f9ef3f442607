"""Weight gradients made together, on a CPU: what arrives, in what order, and what stays behind."""

from __future__ import annotations

import pytest
import torch

from penstock.kernels.gemm import wgrad, wgrads
from penstock.kernels.numeric import same_bits
from penstock.kernels.quantize import quantize_rows, quantize_tokens, transpose_shift


def cast(tokens: int, features: int, recipe: str):
    x = torch.randn(tokens, features)
    return quantize_tokens(x) if recipe == "v3" else transpose_shift(quantize_rows(x))


@pytest.mark.parametrize("recipe", ["v3", "shift"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_a_list_is_each_of_its_products(recipe: str, accumulate: bool) -> None:
    sizes = [(128, 96, 130), (64, 64, 1), (30, 20, 256)] * 4
    products = [(cast(t, n, recipe), cast(t, k, recipe), torch.randn(n, k)) for n, k, t in sizes]
    alone = [wgrad(g, x, out.clone(), accumulate) for g, x, out in products]
    wgrads(products, accumulate)
    for (*_, out), expected in zip(products, alone, strict=True):
        assert same_bits(out, expected)
    wgrads([])


def test_a_list_that_cannot_be_computed_is_refused() -> None:
    v3, shift = ((cast(8, 32, r), cast(8, 16, r), torch.zeros(32, 16)) for r in ("v3", "shift"))
    with pytest.raises(TypeError, match=r"gradients\[1\]: expected RowQ, got TokQ"):
        wgrads([v3, shift])
    with pytest.raises(ValueError, match="memory of its own"):
        wgrads([v3, v3])
    with pytest.raises(ValueError, match="out"):
        wgrads([(v3[0], v3[1], torch.zeros(16, 32))])

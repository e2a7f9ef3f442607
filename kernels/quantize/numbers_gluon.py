"""Device functions over float32 in Gluon, as ``quantize_triton`` has them."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a function's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def finite(x):
    """x, NaN where it is not finite. Maxima pass over NaN."""
    return gl.fma(x, gl.full_like(x, 0.0), x)


@gluon.jit
def power_of_two_scale(largest):
    """The smallest that brings ``largest`` to at most 448, which is 1.75 * 2**8, and its reciprocal."""
    exponent = ((largest.to(gl.int32, bitcast=True) + 0x1FFFFF) >> 23) - 8
    scale = gl.maximum(exponent, 1) << 23
    inverse = (254 << 23) - scale
    return scale.to(gl.float32, bitcast=True), inverse.to(gl.float32, bitcast=True)

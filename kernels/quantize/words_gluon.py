"""Device functions over words of two bfloat16, for kernels whose registers hold what memory holds.

Half the instructions of the same in float32, and half the registers. What is multiplied here is multiplied by
powers of two or rounded once, as float32 would be.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a function's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

LARGER = gl.constexpr("max.xorsign.abs.bf16x2 $0, $1, $2;")
TIMES_ZERO_PLUS = gl.constexpr("{.reg .b32 zero; mov.b32 zero, 0; fma.rn.bf16x2 $0, $1, zero, $1;}")
SUM = gl.constexpr("add.rn.bf16x2 $0, $1, $2;")
PAIR = gl.constexpr("cvt.rn.bf16x2.f32 $0, $2, $1;")
PRODUCT = gl.constexpr("mul.rn.bf16x2 $0, $1, $2;")
CAST = gl.constexpr(
    "{.reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;"
    " cvt.rn.satfinite.e4m3x2.f32 high, $4, $3; mov.b32 $0, {low, high};}"
)


@gluon.jit
def low(x):
    """The first of two, in float32."""
    return (x << 16).to(gl.float32, bitcast=True)


@gluon.jit
def high(x):
    """The second of two, in float32."""
    return (x & -65536).to(gl.float32, bitcast=True)


@gluon.jit
def pair(first, second):
    """A word of two float32."""
    return gl.inline_asm_elementwise(PAIR, "=r,f,f", [first, second], gl.int32, True, 1)


@gluon.jit
def total(a, b):
    """a + b, rounded once."""
    return gl.inline_asm_elementwise(SUM, "=r,r,r", [a, b], gl.int32, True, 1)


@gluon.jit
def product(x, by):
    """x * by, rounded once."""
    return gl.inline_asm_elementwise(PRODUCT, "=r,r,r", [x, by], gl.int32, True, 1)


@gluon.jit
def finite(x):
    """x, NaN where it is not finite."""
    return gl.inline_asm_elementwise(TIMES_ZERO_PLUS, "=r,r", [x], gl.int32, True, 1)


@gluon.jit
def larger(a, b):
    """Larger magnitudes, whose signs mean nothing. NaN is passed over."""
    return gl.inline_asm_elementwise(LARGER, "=r,r,r", [a, b], gl.int32, True, 1)


@gluon.jit
def larger_pair(a0, a1, b0, b1):
    """``larger`` of two words each, to reduce by."""
    return larger(a0, b0), larger(a1, b1)


@gluon.jit
def scales(largest):
    """Scales for what ``larger`` gives, and their reciprocals: as ``quantize_triton.power_of_two_scale``."""
    # Magnitudes are ordered like their bits, of which seven are the fraction: 448 is 1.75 * 2**8.
    largest = larger(largest, gl.full_like(largest, 0)) & 0x7FFF7FFF
    exponent = (largest + 0x001F001F) & 0x7F807F80
    scale = larger(exponent, gl.full_like(largest, 0x04800480)) - 0x04000400
    return scale, 0x7F007F00 - scale


@gluon.jit
def e4m3(a, b, c, d):
    """Four float32 as bytes of one word."""
    return gl.inline_asm_elementwise(CAST, "=r,f,f,f,f", [a, b, c, d], gl.int32, True, 1)

"""How `actors.flow.cuda` keeps values on a GPU in fewer bits, for its Triton kernels.

Integers are for storage only, all arithmetic is float32. They have the bits of float16, or fewer
than two float32, but an even grain: float16 cost several times as much accuracy.

A frame's pixel is int64: intensity, x and y gradient as integers of 21 bits. A dual variable, kept
multiplied by theta (in primal-dual iterations as it is), is a pair (x, y) of 16-bit integers in the
bits of one float32, in units of `grain`, its largest value / 32767.
"""

# What a kernel takes and returns is known to Triton's compiler alone: only constants are annotated.
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

INTENSITY = tl.constexpr(4096.0)
"""Units of a frame's intensity per gray level: 255 levels take 20 bits and a sign."""
GRADIENT = tl.constexpr(8192.0)
"""Units of its gradient, which is half as large at most."""


@triton.jit
def _to_bits(x):
    """The integer nearest to x in the low bits, two's complement; |x| below 2^22.

    Where a float32's last place is worth 1, its last bits are an integer.
    """
    return (x + 12582912.0).to(tl.uint32, bitcast=True)


@triton.jit
def _from_bits(bits, SIGN: tl.constexpr):
    """The integer that `_to_bits` gave; SIGN is its sign bit, and nothing stands above that."""
    return (bits ^ (0x4B000000 + SIGN)).to(tl.float32, bitcast=True) - (8388608.0 + SIGN)


@triton.jit
def pack_dual(x, y, grain_inverse):
    """A dual variable's two components in the bits of one float32."""
    low = _to_bits(x * grain_inverse) & 0xFFFF
    return (low | (_to_bits(y * grain_inverse) << 16)).to(tl.float32, bitcast=True)


@triton.jit
def unpack_dual(packed, grain):
    """The components that `pack_dual` took, rounded."""
    bits = packed.to(tl.uint32, bitcast=True)
    return _from_bits(bits & 0xFFFF, 0x8000) * grain, _from_bits(bits >> 16, 0x8000) * grain


@triton.jit
def pack_pixel(value, dx, dy):
    """A pixel of a frame from its intensity and twice its gradient."""
    bits = (_to_bits(value * INTENSITY) & 0x1FFFFF).to(tl.uint64)
    bits |= (_to_bits(dx * (0.5 * GRADIENT)) & 0x1FFFFF).to(tl.uint64) << 21
    bits |= (_to_bits(dy * (0.5 * GRADIENT)) & 0x1FFFFF).to(tl.uint64) << 42
    return bits.to(tl.int64, bitcast=True)


@triton.jit
def pixel_field(pixel, SHIFT: tl.constexpr):
    """One of a frame's pixel's three integers, as float32."""
    return _from_bits((pixel >> SHIFT).to(tl.uint32) & 0x1FFFFF, 0x100000)

"""Compact storage of frames and dual variables on a GPU, for the Triton kernels.

The integers are for storage only; all arithmetic is float32. Integers have an even resolution;
float16 loses several times as much accuracy with the same number of bits.

A frame's pixel is an int64: intensity, x and y gradient as integers of 21 bits. A dual variable
(times theta in alternating iterations) is a pair (x, y) of 16-bit integers in the bits of one
float32, in units of `grain`, which is its largest value / 32767.
"""

# Triton infers the types of a kernel's arguments; only compile-time constants are annotated.
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

INTENSITY = tl.constexpr(4096.0)
"""Units of intensity per gray level: 255 levels take 20 bits and a sign."""
GRADIENT = tl.constexpr(8192.0)
"""Units of the gradient, which is at most half as large."""


@triton.jit
def _to_bits(x):
    """Returns the integer nearest to x in the low bits, two's complement; |x| below 2^22.

    The last bits of a float32 are an integer where its last place has the value 1.
    """
    return (x + 12582912.0).to(tl.uint32, bitcast=True)


@triton.jit
def _from_bits(bits, SIGN: tl.constexpr):
    """Inverse of `_to_bits`; SIGN is the sign bit, and all higher bits are 0."""
    return (bits ^ (0x4B000000 + SIGN)).to(tl.float32, bitcast=True) - (8388608.0 + SIGN)


@triton.jit
def pack_dual(x, y, grain_inverse):
    """Packs a dual variable's two components into the bits of one float32."""
    low = _to_bits(x * grain_inverse) & 0xFFFF
    return (low | (_to_bits(y * grain_inverse) << 16)).to(tl.float32, bitcast=True)


@triton.jit
def unpack_dual(packed, grain):
    """Inverse of `pack_dual`, up to rounding."""
    bits = packed.to(tl.uint32, bitcast=True)
    return _from_bits(bits & 0xFFFF, 0x8000) * grain, _from_bits(bits >> 16, 0x8000) * grain


@triton.jit
def pack_pixel(value, dx, dy):
    """Packs a pixel from its intensity and twice its gradient."""
    bits = (_to_bits(value * INTENSITY) & 0x1FFFFF).to(tl.uint64)
    bits |= (_to_bits(dx * (0.5 * GRADIENT)) & 0x1FFFFF).to(tl.uint64) << 21
    bits |= (_to_bits(dy * (0.5 * GRADIENT)) & 0x1FFFFF).to(tl.uint64) << 42
    return bits.to(tl.int64, bitcast=True)


@triton.jit
def pixel_field(pixel, SHIFT: tl.constexpr):
    """Returns one of a pixel's three integers as float32."""
    return _from_bits((pixel >> SHIFT).to(tl.uint32) & 0x1FFFFF, 0x100000)

"""The warp: bicubic sampling of the second frame, and the linearized brightness constancy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.flow.compiling import compiled
from actors.flow.loops.planes import (
    FLAT,
    GX,
    GY,
    HALF,
    I0,
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    INVERSE,
    MARGIN,
    ONE,
    RHO,
    SCRATCH,
    ZERO,
    Index,
    Plane,
    U,
    V,
)


@compiled(disjoint=True)
def _pack_row(
    packed: Plane, image: Plane, to: Index, row: Index, above: Index, below: Index, width: Index
) -> None:
    last = width - I1
    for x in range(I1, last):
        at = to + I4 * x
        packed[at] = image[row + x]
        packed[at + I1] = HALF * (image[row + x + I1] - image[row + x - I1])
        packed[at + I2] = HALF * (image[below + x] - image[above + x])
        packed[at + I3] = ZERO
    edges: Any = ((I0, I0, I1), (last, last - I1, last))
    for x, left, right in edges:
        at = to + I4 * x
        packed[at] = image[row + x]
        packed[at + I1] = HALF * (image[row + right] - image[row + left])
        packed[at + I2] = HALF * (image[below + x] - image[above + x])
        packed[at + I3] = ZERO


@compiled()
def pack(image: Plane, packed: Plane, height: int, width: int) -> None:
    """Interleaves an image with its central differences (half the one-sided ones at the edges).

    The warp reads all three at the same positions; interleaved, one load fetches them.

    Args:
        image: flat (height, width).
        packed: flat (height + 2 MARGIN, width + 2 MARGIN, 4); written: the value, its differences
            along x and y, and 0. The margin is 0.
        height: rows.
        width: columns.
    """
    pitch = width + 2 * MARGIN
    packed[: 4 * (MARGIN * pitch + MARGIN)] = 0
    for y in range(height):
        at = 4 * ((y + MARGIN) * pitch + MARGIN)
        above, below = np.uintp(max(y - 1, 0) * width), np.uintp(min(y + 1, height - 1) * width)
        row, columns = np.uintp(y * width), np.uintp(width)
        _pack_row(packed, image, np.uintp(at), row, above, below, columns)
        packed[at + 4 * width : at + 4 * pitch] = 0  # right margin, next left one
    packed[4 * (height + MARGIN) * pitch : 4 * (height + 2 * MARGIN) * pitch] = 0


@compiled()
def _cubic_weights(t: Any, a: Any) -> tuple[Any, Any, Any, Any]:
    """Weights of the pixels at -1, 0, 1, 2 for a point at t in 0..1 (Keys, 1981)."""
    s = ONE - t
    before, after = a * t * s * s, a * s * t * t
    here = ((a + np.float32(2)) * t - (a + np.float32(3))) * t * t + ONE
    return before, here, ONE - before - here - after, after


@compiled(disjoint=True)
def _aim_row(
    u: Plane, v: Plane, taps: NDArray[np.uint32], weights: Plane, at: Index, y: Any,
    height: int, width: Index, cubic: Any,
) -> None:  # fmt: skip
    """Computes the first tap of each pixel of a row, and the weights along x and y.

    A position outside the frame is clipped to where no tap with a weight is inside.
    """
    pitch = np.uint32(width) + np.uint32(2 * MARGIN)
    lowest, around = np.float32(-2), np.float32(MARGIN)
    right, bottom = np.float32(width + I1), np.float32(height + 1)
    for x in range(width):
        from_x = min(max(np.float32(np.int32(x)) + u[at + x], lowest), right) + around
        from_y = min(max(y + v[at + x], lowest), bottom) + around
        column, row = np.int32(from_x), np.int32(from_y)
        taps[x] = np.uint32(row - 1) * pitch + np.uint32(column - 1)
        a, b, c, d = _cubic_weights(from_x - np.float32(column), cubic)
        weights[x], weights[width + x] = a, b
        weights[I2 * width + x], weights[I3 * width + x] = c, d
        a, b, c, d = _cubic_weights(from_y - np.float32(row), cubic)
        weights[I4 * width + x], weights[I5 * width + x] = a, b
        weights[I6 * width + x], weights[I7 * width + x] = c, d


@compiled(disjoint=True, across=True)
def _sample_row(
    packed: Plane, taps: NDArray[np.uint32], weights: Plane, width: Index, sampled: Plane
) -> None:
    """Interpolates the value and both gradients together: one vector of four per tap."""
    down = I4 * (width + np.uintp(2 * MARGIN))
    end = np.uintp(packed.size)
    for x in range(width):
        tap: Index = I4 * np.uintp(taps[x])
        # Never true. LLVM doesn't vectorize a loop with two exits over pixels, which would gather.
        if tap >= end:
            break
        value = gx = gy = nothing = ZERO
        for j in range(4):
            at: Index = tap + np.uintp(j) * down
            p = q = r = s = ZERO
            for i in range(4):
                weight = weights[np.uintp(i) * width + x]
                p += weight * packed[at]
                q += weight * packed[at + I1]
                r += weight * packed[at + I2]
                s += weight * packed[at + I3]
                at += I4
            weight = weights[np.uintp(j + 4) * width + x]
            value += weight * p
            gx += weight * q
            gy += weight * r
            nothing += weight * s
        to = I4 * x
        sampled[to] = value
        sampled[to + I1] = gx
        sampled[to + I2] = gy
        sampled[to + I3] = nothing


@compiled(disjoint=True)
def _linearize_row(
    sampled: Plane, first: Plane, u: Plane, v: Plane, gx: Plane, gy: Plane, inverse: Plane,
    rho: Plane, at: Index, row: Index, width: Index,
) -> None:  # fmt: skip
    for x in range(width):
        i, j = at + x, I4 * x
        # The fourth value is 0. With it, LLVM loads whole vectors and shuffles: no gathers.
        value, dx, dy = sampled[j] + sampled[j + I3], sampled[j + I1], sampled[j + I2]
        squared = dx * dx + dy * dy
        gx[i] = dx
        gy[i] = dy
        inverse[i] = ONE / squared if squared > FLAT else ZERO
        rho[i] = value - dx * u[i] - dy * v[i] - first[row + x]


@compiled()
def linearize(
    first: Plane, packed: Plane, state: Plane, terms: Plane, height: int, width: int, stride: int,
    cubic: float,
) -> None:  # fmt: skip
    """Warps the second frame by the flow and linearizes the brightness constancy around it.

    Values and gradients outside the second frame are 0, so the data term ignores such pixels.

    Args:
        first: first frame, flat (height, width).
        packed: second frame, from `pack`.
        state: (STATE, size); U and V are read.
        terms: (TERMS, size); GX, GY, INVERSE and RHO are written, with zeros after each row.
        height: rows.
        width: columns.
        stride: elements from row to row of a plane.
        cubic: free parameter of the bicubic kernel.
    """
    taps = np.empty(width, np.uint32)
    weights = np.empty(8 * width, np.float32)
    sampled = np.empty(4 * width, np.float32)
    u, v, columns = state[U], state[V], np.uintp(width)
    for y in range(height):
        at = np.uintp((y + 1) * stride)
        _aim_row(u, v, taps, weights, at, np.float32(y), height, columns, np.float32(cubic))
        _sample_row(packed, taps, weights, columns, sampled)
        _linearize_row(
            sampled, first, u, v, terms[GX], terms[GY], terms[INVERSE], terms[RHO],
            at, np.uintp(y * width), columns,
        )  # fmt: skip
        for plane in range(SCRATCH):
            terms[plane, (y + 1) * stride + width : (y + 2) * stride] = 0

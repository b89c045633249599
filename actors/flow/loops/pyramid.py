"""From scale to scale, and from frame to frame: resizing, and the warp's linearisation."""

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
    UX,
    ZERO,
    Index,
    Plane,
    U,
    V,
)


@compiled(disjoint=True)
def _resize_row(
    target: Plane, row: Plane, left: NDArray[np.uint32], share: Plane, at: Index, width: Index,
    factor: Any,
) -> None:  # fmt: skip
    for x in range(width):
        place = np.uintp(left[x])
        target[at + x] = factor * (row[place] + share[x] * (row[place + I1] - row[place]))


@compiled(disjoint=True)
def _blend_rows(
    row: Plane, source: Plane, top: Index, bottom: Index, share: Any, width: Index
) -> None:
    for x in range(width):
        row[x] = source[top + x] + share * (source[bottom + x] - source[top + x])
    row[width] = row[width - I1]


@compiled()
def _neighbors(left: NDArray[np.uint32], share: Plane, columns: int, step: float) -> None:
    """For each pixel of a row the source pixel to its left, and the share of the one after it."""
    for x in range(left.size):
        at = min(max((x + 0.5) * step - 0.5, 0.0), columns - 1.0)
        left[x] = np.uint32(at)
        share[x] = at - int(at)


@compiled()
def resize(
    source: Plane, source_shape: tuple[int, int, int, int], target: Plane,
    target_shape: tuple[int, int, int, int], step_y: float, step_x: float, factor: float,
) -> None:  # fmt: skip
    """Bilinear resize; pixel centres at halves, edges replicated, as OpenCV's ``INTER_LINEAR``.

    Args:
        source: pixels to read.
        source_shape: their height, width, stride and the index of the first.
        target: pixels to write.
        target_shape: as `source_shape`.
        step_y: source rows per row of the target.
        step_x: source columns per column of the target.
        factor: what each value is multiplied by. What a row has beyond the width becomes 0.
    """
    rows, columns, pitch, start = source_shape
    height, width, stride, target_start = target_shape
    row = np.empty(columns + 1, np.float32)
    left = np.empty(width, np.uint32)
    share = np.empty(width, np.float32)
    _neighbors(left, share, columns, step_x)
    for y in range(height):
        at_y = min(max((y + 0.5) * step_y - 0.5, 0.0), rows - 1.0)
        top = int(at_y)
        above = np.uintp(start + top * pitch)
        below = np.uintp(start + min(top + 1, rows - 1) * pitch)
        _blend_rows(row, source, above, below, np.float32(at_y - top), np.uintp(columns))
        at = target_start + y * stride
        _resize_row(target, row, left, share, np.uintp(at), np.uintp(width), np.float32(factor))
        target[at + width : at + stride] = 0


@compiled(disjoint=True)
def _blend_duals(
    row: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, top: Index, bottom: Index, share: Any,
    width: Index,
) -> None:  # fmt: skip
    for x in range(width):
        i, j, k = top + x, bottom + x, I4 * x
        row[k] = ux[i] + share * (ux[j] - ux[i])
        row[k + I1] = uy[i] + share * (uy[j] - uy[i])
        row[k + I2] = vx[i] + share * (vx[j] - vx[i])
        row[k + I3] = vy[i] + share * (vy[j] - vy[i])
    for c in range(4):
        row[I4 * width + np.uintp(c)] = row[I4 * (width - I1) + np.uintp(c)]


@compiled(disjoint=True, across=True)
def _spread_duals(
    row: Plane, left: NDArray[np.uint32], share: Plane, width: Index, spread: Plane
) -> None:
    """Interpolates all four together: one vector per neighbor, where alone each needs gathers."""
    end = np.uintp(row.size)
    for x in range(width):
        i: Index = I4 * np.uintp(left[x])
        if i >= end:  # never taken, as in `_sample_row`
            break
        k, part = I4 * x, share[x]
        spread[k] = row[i] + part * (row[i + I4] - row[i])
        spread[k + I1] = row[i + I1] + part * (row[i + I5] - row[i + I1])
        spread[k + I2] = row[i + I2] + part * (row[i + I6] - row[i + I2])
        spread[k + I3] = row[i + I3] + part * (row[i + I7] - row[i + I3])


@compiled(disjoint=True)
def _part_duals(
    spread: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, at: Index, width: Index
) -> None:
    for x in range(width):
        i, k = at + x, I4 * x
        ux[i] = spread[k]
        uy[i] = spread[k + I1]
        vx[i] = spread[k + I2]
        vy[i] = spread[k + I3]


@compiled()
def enlarge_duals(
    source: Plane, source_shape: tuple[int, int, int, int], target: Plane,
    target_shape: tuple[int, int, int, int], step_y: float, step_x: float,
) -> None:  # fmt: skip
    """Brings the dual variables to another scale, as `resize` does; 0 across the frame's edges.

    Args:
        source: (4, size); planes to read.
        source_shape: their height, width, stride and the index of the first pixel.
        target: (4, size); planes to write, zeros before the first row and after each included.
        target_shape: as `source_shape`.
        step_y: source rows per row of the target.
        step_x: source columns per column of the target.
    """
    rows, columns, pitch, start = source_shape
    height, width, stride, target_start = target_shape
    row = np.empty(4 * (columns + 1), np.float32)
    spread = np.empty(4 * width, np.float32)
    left, share = np.empty(width, np.uint32), np.empty(width, np.float32)
    _neighbors(left, share, columns, step_x)
    target[:, :target_start] = 0
    for y in range(height):
        at_y = min(max((y + 0.5) * step_y - 0.5, 0.0), rows - 1.0)
        top = int(at_y)
        above = np.uintp(start + top * pitch)
        below = np.uintp(start + min(top + 1, rows - 1) * pitch)
        _blend_duals(
            row, source[0], source[1], source[2], source[3], above, below,
            np.float32(at_y - top), np.uintp(columns),
        )  # fmt: skip
        _spread_duals(row, left, share, np.uintp(width), spread)
        at = target_start + y * stride
        _part_duals(
            spread, target[0], target[1], target[2], target[3], np.uintp(at), np.uintp(width)
        )
        for c in range(4):
            after = width - (1 if c % 2 == 0 else 0)
            target[c, at + after : at + stride] = 0
    last = target_start + (height - 1) * stride
    target[1, last : last + width] = 0
    target[3, last : last + width] = 0


@compiled()
def enlarge(
    source: Plane, source_shape: tuple[int, int, int, int], target: Plane,
    target_shape: tuple[int, int, int, int], zoom: float, duals: bool,
) -> None:  # fmt: skip
    """Brings a scale's solution to the next finer one: more pixels, longer displacements.

    Args:
        source: (STATE, size), the coarse scale's.
        source_shape: its height, width, stride and the index of the first pixel.
        target: (STATE, size), written.
        target_shape: as `source_shape`.
        zoom: what displacements are multiplied by.
        duals: hand the dual variables on too; else they start from zero.
    """
    height, width, stride, start = target_shape
    step_y, step_x = source_shape[0] / height, source_shape[1] / width
    for plane in (U, V):
        resize(source[plane], source_shape, target[plane], target_shape, step_y, step_x, zoom)
    # What the last column's difference looks at, after the last row.
    target[:UX, start + height * stride] = 0
    if duals:
        enlarge_duals(source[UX:], source_shape, target[UX:], target_shape, step_y, step_x)
    else:
        target[UX:, : start + (height + 1) * stride] = 0


@compiled()
def build(pyramid: Plane, scales: NDArray[np.int64], step: float) -> None:
    """Fills the coarser scales of a frame's pyramid, each from the one before it.

    Args:
        pyramid: all scales one after the other, finest first, of which the first is given.
        scales: (scales, 3): height, width, and where it begins.
        step: pixels of a scale per pixel of the next.
    """
    for n in range(len(scales) - 1):
        height, width, start = scales[n]
        rows, columns, after = scales[n + 1]
        resize(
            pyramid, (height, width, width, start), pyramid, (rows, columns, columns, after),
            step, step, 1.0,
        )  # fmt: skip


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
    """An image and its central differences (at the edges half the one-sided ones), side by side.

    The warp needs all three at the same places; like this they come with one load.

    Args:
        image: flat (height, width).
        packed: flat (height + 2 MARGIN, width + 2 MARGIN, 4), written: the value, its differences
            along x and y, and 0; all 0 in the margin.
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
        packed[at + 4 * width : at + 4 * pitch] = 0  # its right margin, and the next row's left
    packed[4 * (height + MARGIN) * pitch : 4 * (height + 2 * MARGIN) * pitch] = 0


@compiled()
def _cubic_weights(t: Any, a: Any) -> tuple[Any, Any, Any, Any]:
    """Weights of the pixels at -1, 0, 1, 2 for a point t in 0..1 after pixel 0 (Keys, 1981)."""
    s = ONE - t
    before, after = a * t * s * s, a * s * t * t
    here = ((a + np.float32(2)) * t - (a + np.float32(3))) * t * t + ONE
    return before, here, ONE - before - here - after, after


@compiled(disjoint=True)
def _aim_row(
    u: Plane, v: Plane, taps: NDArray[np.uint32], weights: Plane, at: Index, y: Any,
    height: int, width: Index, cubic: Any,
) -> None:  # fmt: skip
    """Where each pixel of a row comes from: its first tap, and its weights along x and y.

    A displacement beyond the frame is cut where no tap that weighs lies in the frame.
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
    """Interpolates value and gradients together: one vector of four per tap."""
    down = I4 * (width + np.uintp(2 * MARGIN))
    end = np.uintp(packed.size)
    for x in range(width):
        tap: Index = I4 * np.uintp(taps[x])
        # Never taken. A loop with two ends isn't vectorized over pixels, which would need gathers.
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
def _linearise_row(
    sampled: Plane, first: Plane, u: Plane, v: Plane, gx: Plane, gy: Plane, inverse: Plane,
    rho: Plane, at: Index, row: Index, width: Index,
) -> None:  # fmt: skip
    for x in range(width):
        i, j = at + x, I4 * x
        # The fourth is 0. Reading it too, LLVM loads whole vectors and sorts them: no gathers.
        value, dx, dy = sampled[j] + sampled[j + I3], sampled[j + I1], sampled[j + I2]
        squared = dx * dx + dy * dy
        gx[i] = dx
        gy[i] = dy
        inverse[i] = ONE / squared if squared > FLAT else ZERO
        rho[i] = value - dx * u[i] - dy * v[i] - first[row + x]


@compiled()
def linearise(
    first: Plane, packed: Plane, state: Plane, terms: Plane, height: int, width: int, stride: int,
    cubic: float,
) -> None:  # fmt: skip
    """Warps the second frame by the flow and linearises the brightness constancy around it.

    What lies outside the second frame counts as zero, gradients included, which takes such pixels
    out of the data term.

    Args:
        first: first frame, flat (height, width).
        packed: second frame, of `pack`.
        state: (STATE, size); U and V are read.
        terms: (TERMS, size); GX, GY, INVERSE and RHO are written, zeros after each row included.
        height: rows.
        width: columns.
        stride: from row to row of a plane.
        cubic: the bicubic kernel's free parameter.
    """
    taps = np.empty(width, np.uint32)
    weights = np.empty(8 * width, np.float32)
    sampled = np.empty(4 * width, np.float32)
    u, v, columns = state[U], state[V], np.uintp(width)
    for y in range(height):
        at = np.uintp((y + 1) * stride)
        _aim_row(u, v, taps, weights, at, np.float32(y), height, columns, np.float32(cubic))
        _sample_row(packed, taps, weights, columns, sampled)
        _linearise_row(
            sampled, first, u, v, terms[GX], terms[GY], terms[INVERSE], terms[RHO],
            at, np.uintp(y * width), columns,
        )  # fmt: skip
        for plane in range(SCRATCH):
            terms[plane, (y + 1) * stride + width : (y + 2) * stride] = 0

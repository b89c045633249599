"""The loops of TV-L1, compiled by Numba. One thread per call; the interpreter's lock is released.

Intensities are 0..255, displacements are in pixels, everything is float32. Images are flat arrays:
row y of a frame starts at ``y * width``. A variable of the iteration is a *plane*, row y of which
starts at ``(y + 1) * stride``, stride being a multiple of `LANES` above the width. The zeros
before row 0 and after each row stand for what lies outside the frame, so that no loop asks where
it is; and rows start at the same place in a cache line, which alone is a fifth of the speed.

Indices are unsigned: for signed ones Numba looks after negative values, which LLVM then can't
vectorise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.flow.compiling import compiled

Plane = NDArray[np.float32]
Index = Any
"""np.uintp; for Numba, whose unsigned integers mypy doesn't know."""

LANES = 16
"""Floats in a cache line, and in the widest vectors there are."""
MARGIN = 4
"""Pixels of zeros around a packed image: the taps of a point next to the frame go no further."""
LONGEST_BLOCK = 8
"""Iterations that may be under way at once."""
U, V, UX, UY, VX, VY = range(6)
"""Planes of the state: displacements and their duals (times theta in `iterate`)."""
STATE = VY + 1
GX, GY, INVERSE, RHO, SCRATCH = range(5)
"""Planes of the data term: gradients of the warped second frame, the inverse of their squared norm
(0 where flat), the residual at zero flow, and room for the median."""
TERMS = SCRATCH + 1

FLAT = np.float32(np.finfo(np.float32).eps)
"""A squared gradient below this carries no motion."""
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
I0, I1, I2, I3, I4, I5, I6, I7 = (np.uintp(n) for n in range(8))


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
def _neighbours(left: NDArray[np.uint32], share: Plane, columns: int, step: float) -> None:
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
        factor: what each value is multiplied by.
    """
    rows, columns, pitch, start = source_shape
    height, width, stride, target_start = target_shape
    row = np.empty(columns + 1, np.float32)
    left = np.empty(width, np.uint32)
    share = np.empty(width, np.float32)
    _neighbours(left, share, columns, step_x)
    for y in range(height):
        at_y = min(max((y + 0.5) * step_y - 0.5, 0.0), rows - 1.0)
        top = int(at_y)
        above = np.uintp(start + top * pitch)
        below = np.uintp(start + min(top + 1, rows - 1) * pitch)
        _blend_rows(row, source, above, below, np.float32(at_y - top), np.uintp(columns))
        at = np.uintp(target_start + y * stride)
        _resize_row(target, row, left, share, at, np.uintp(width), np.float32(factor))


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
    """Interpolates all four together: one vector per neighbour, where alone each needs gathers."""
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
        target: (4, size); planes to write, the zeros around the frame included.
        target_shape: as `source_shape`.
        step_y: source rows per row of the target.
        step_x: source columns per column of the target.
    """
    rows, columns, pitch, start = source_shape
    height, width, stride, target_start = target_shape
    row = np.empty(4 * (columns + 1), np.float32)
    spread = np.empty(4 * width, np.float32)
    left, share = np.empty(width, np.uint32), np.empty(width, np.float32)
    _neighbours(left, share, columns, step_x)
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
    packed[: 4 * pitch * (height + 2 * MARGIN)] = 0
    for y in range(height):
        to = np.uintp(4 * ((y + MARGIN) * pitch + MARGIN))
        above, below = np.uintp(max(y - 1, 0) * width), np.uintp(min(y + 1, height - 1) * width)
        _pack_row(packed, image, to, np.uintp(y * width), above, below, np.uintp(width))


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

    A displacement beyond the frame is cut where all taps lie in the margin.
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
        # Never taken. A loop with two ends isn't vectorised over pixels, which would need gathers.
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
        terms: (TERMS, size); GX, GY, INVERSE and RHO are written.
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


@compiled(disjoint=True, inline=True)
def _primal_row(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, gx: Plane, gy: Plane,
    inverse: Plane, rho: Plane, at: Index, above: Index, length: Index, limit: Any,
) -> Any:  # fmt: skip
    """One row of u <- u + step g + theta div p; returns its summed squared change.

    The step along the gradient is the thresholding operator (Zach et al., Eq. 15).
    """
    error = ZERO
    for x in range(length):
        i, j = at + x, above + x
        residual = rho[i] + gx[i] * u[i] + gy[i] * v[i]
        step = min(max(-residual * inverse[i], -limit), limit)
        du = step * gx[i] + ((ux[i] - ux[i - I1]) + (uy[i] - uy[j]))
        dv = step * gy[i] + ((vx[i] - vx[i - I1]) + (vy[i] - vy[j]))
        u[i] += du
        v[i] += dv
        error += du * du + dv * dv
    return error


@compiled(disjoint=True, inline=True)
def _dual_row(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, tau: Plane, at: Index,
    below: Index, length: Index, rate: Any,
) -> None:  # fmt: skip
    """One row of p <- (p + tau grad u) / (1 + tau / theta |grad u|) (Zach et al., Eq. 14)."""
    for x in range(length):
        i, j = at + x, below + x
        a, b = u[i + I1] - u[i], u[j] - u[i]
        c, d = v[i + I1] - v[i], v[j] - v[i]
        shrink_u = ONE / (ONE + rate * math.sqrt(a * a + b * b))
        shrink_v = ONE / (ONE + rate * math.sqrt(c * c + d * d))
        ux[i] = (ux[i] + tau[x] * a) * shrink_u
        uy[i] = (uy[i] + tau[x] * b) * shrink_u
        vx[i] = (vx[i] + tau[x] * c) * shrink_v
        vy[i] = (vy[i] + tau[x] * d) * shrink_v


@compiled(disjoint=True)
def iterate(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, gx: Plane, gy: Plane,
    inverse: Plane, rho: Plane, tau: Plane, height: int, width: int, stride: int, limit: Any,
    rate: Any, errors: NDArray[np.float64], count: int,
) -> None:  # fmt: skip
    """So many iterations in one sweep over the planes, each a row behind the one before it.

    Row y of u needs rows y-1 and y of the old p, row y-1 of p needs rows y-1 and y of the new u.
    So iteration k may do row y of u and row y-1 of p as soon as iteration k-1 has done row y of p,
    and all the rows it needs are still in the cache.

    Args:
        tau: times step of each column: 0 in the columns after the frame, which thus stay zero.
        errors: written: each iteration's summed squared change.
    """
    errors[:count] = 0
    columns, pitch = np.uintp(width), np.uintp(stride)
    length = (columns + np.uintp(LANES - 1)) // np.uintp(LANES) * np.uintp(LANES)
    for front in range(height + count):
        for k in range(max(front - height, 0), min(count, front + 1)):
            y = front - k
            at = np.uintp(y + 1) * pitch
            if y < height:
                errors[k] += _primal_row(
                    u, v, ux, uy, vx, vy, gx, gy, inverse, rho, at, at - pitch, length, limit
                )
                # No change across the right edge.
                u[at + columns] = u[at + columns - I1]
                v[at + columns] = v[at + columns - I1]
            if y > 0:
                below = at if y < height else at - pitch
                _dual_row(u, v, ux, uy, vx, vy, tau, at - pitch, below, length, rate)


@compiled(disjoint=True, inline=True)
def _primal_step_row(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, gx: Plane, gy: Plane,
    inverse: Plane, rho: Plane, bar_u: Plane, bar_v: Plane, at: Index, above: Index, bar: Index,
    length: Index, tau: Any, limit: Any, share: Any,
) -> Any:  # fmt: skip
    """One row of u <- prox(u + tau div p), and of u extrapolated; returns its squared change.

    The proximal map is that of tau times the data term's Moreau envelope of width theta, which the
    coupling of `_primal_row` amounts to: `share` of the way to its thresholding operator.
    """
    error = ZERO
    for x in range(length):
        i, j, k = at + x, above + x, bar + x
        du = tau * ((ux[i] - ux[i - I1]) + (uy[i] - uy[j]))
        dv = tau * ((vx[i] - vx[i - I1]) + (vy[i] - vy[j]))
        residual = rho[i] + gx[i] * (u[i] + du) + gy[i] * (v[i] + dv)
        step = min(max(-share * residual * inverse[i], -limit), limit)
        du += step * gx[i]
        dv += step * gy[i]
        u[i] += du
        v[i] += dv
        bar_u[k] = u[i] + du
        bar_v[k] = v[i] + dv
        error += du * du + dv * dv
    return error


@compiled(disjoint=True, inline=True)
def _dual_step_row(
    ux: Plane, uy: Plane, vx: Plane, vy: Plane, bar_u: Plane, bar_v: Plane, sigma: Plane,
    at: Index, bar: Index, below: Index, length: Index,
) -> None:  # fmt: skip
    """One row of p <- (p + sigma grad u) / max(1, |p + sigma grad u|), u being extrapolated."""
    for x in range(length):
        i, j, k = at + x, bar + x, below + x
        a = ux[i] + sigma[x] * (bar_u[j + I1] - bar_u[j])
        b = uy[i] + sigma[x] * (bar_u[k] - bar_u[j])
        c = vx[i] + sigma[x] * (bar_v[j + I1] - bar_v[j])
        d = vy[i] + sigma[x] * (bar_v[k] - bar_v[j])
        shrink_u = ONE / math.sqrt(max(a * a + b * b, ONE))
        shrink_v = ONE / math.sqrt(max(c * c + d * d, ONE))
        ux[i] = a * shrink_u
        uy[i] = b * shrink_u
        vx[i] = c * shrink_v
        vy[i] = d * shrink_v


@compiled(disjoint=True)
def iterate_primal_dual(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, gx: Plane, gy: Plane,
    inverse: Plane, rho: Plane, bar_u: Plane, bar_v: Plane, sigma: Plane, height: int, width: int,
    stride: int, tau: Any, limit: Any, share: Any, errors: NDArray[np.float64], count: int,
) -> None:  # fmt: skip
    """As `iterate`, of Chambolle and Pock's iterations; the dual variables are not times theta.

    Args:
        bar_u: room for two rows per iteration of extrapolated displacements.
        bar_v: likewise.
        sigma: dual step of each column: 0 in the columns after the frame.
        tau: primal step.
        limit: lambda * tau.
        share: tau / (tau + theta).
        errors: written: each iteration's summed squared change.
    """
    errors[:count] = 0
    columns, pitch = np.uintp(width), np.uintp(stride)
    length = (columns + np.uintp(LANES - 1)) // np.uintp(LANES) * np.uintp(LANES)
    for front in range(height + count):
        for k in range(max(front - height, 0), min(count, front + 1)):
            y = front - k
            at = np.uintp(y + 1) * pitch
            here, before = np.uintp(2 * k + y % 2) * pitch, np.uintp(2 * k + (y + 1) % 2) * pitch
            if y < height:
                errors[k] += _primal_step_row(
                    u, v, ux, uy, vx, vy, gx, gy, inverse, rho, bar_u, bar_v, at, at - pitch,
                    here, length, tau, limit, share,
                )  # fmt: skip
                # No change across the right edge.
                bar_u[here + columns] = bar_u[here + columns - I1]
                bar_v[here + columns] = bar_v[here + columns - I1]
            if y > 0:
                below = here if y < height else before
                _dual_step_row(
                    ux, uy, vx, vy, bar_u, bar_v, sigma, at - pitch, before, below, length
                )


@compiled()
def next_block(error: float, before: float, tolerance: float, left: int) -> int:
    """How many iterations surely remain before the change falls to the tolerance; at least 1.

    Its decay flattens out, so the last iteration's decay foretells too few rather than too many.
    Where it is slow or wavering, 10 % per iteration is supposed.

    Args:
        error: the last iteration's change.
        before: the change of the one before it; 0 if not known.
        tolerance: when to stop; 0 for never.
        left: iterations at most.
    """
    if tolerance <= 0:
        return min(LONGEST_BLOCK, left)
    if before <= 0:
        return 1
    decay = max(math.log(before / error), 0.1)
    return max(1, min(LONGEST_BLOCK, left, int(math.log(error / tolerance) / decay)))


@compiled(disjoint=True)
def _order_rows(low: Plane, high: Plane, width: Index) -> None:
    for x in range(width):
        smaller, larger = min(low[x], high[x]), max(low[x], high[x])
        low[x] = smaller
        high[x] = larger


@compiled()
def median(
    plane: Plane, scratch: Plane, height: int, width: int, stride: int, side: int,
    network: NDArray[np.int32],
) -> None:  # fmt: skip
    """Replaces each pixel by the median of the side x side around it, edges replicated.

    Args:
        plane: pixels, overwritten.
        scratch: another plane.
        height: rows.
        width: columns.
        stride: from row to row of a plane.
        side: odd.
        network: comparators that bring the median of side * side values to their middle.
    """
    reach = side // 2
    window = np.empty((side * side, width), np.float32)
    for y in range(height):
        for j in range(side):
            at = (1 + min(max(y + j - reach, 0), height - 1)) * stride
            for i in range(side):
                row, shift = window[j * side + i], i - reach
                begin, end = max(0, -shift), width - max(0, shift)
                row[begin:end] = plane[at + begin + shift : at + end + shift]
                row[:begin] = plane[at]
                row[end:] = plane[at + width - 1]
        for n in range(len(network)):
            _order_rows(window[network[n, 0]], window[network[n, 1]], np.uintp(width))
        at = (1 + y) * stride
        scratch[at : at + width] = window[side * side // 2]
    for y in range(height):
        at = (1 + y) * stride
        plane[at : at + width] = scratch[at : at + width]


@compiled()
def _block(
    state: Plane, terms: Plane, bars: Plane, steps: Plane, height: int, width: int, stride: int,
    limit: Any, tau: Any, rate: Any, primal_dual: bool, errors: NDArray[np.float64], count: int,
) -> None:  # fmt: skip
    """So many iterations of the one kind or the other."""
    if primal_dual:
        iterate_primal_dual(
            state[U], state[V], state[UX], state[UY], state[VX], state[VY], terms[GX], terms[GY],
            terms[INVERSE], terms[RHO], bars[0], bars[1], steps, height, width, stride, tau,
            limit, rate, errors, count,
        )  # fmt: skip
    else:
        iterate(
            state[U], state[V], state[UX], state[UY], state[VX], state[VY], terms[GX], terms[GY],
            terms[INVERSE], terms[RHO], steps, height, width, stride, limit, rate, errors, count,
        )  # fmt: skip


@compiled()
def solve_scale(
    first: Plane, packed: Plane, state: Plane, terms: Plane, height: int, width: int, stride: int,
    warps: int, outer: int, inner: int, side: int, network: NDArray[np.int32], limit: float,
    tau: float, rate: float, sigma: float, tolerance: float, cubic: float,
) -> int:  # fmt: skip
    """Refines the flow of one pyramid scale in place; returns how many iterations it took.

    Args:
        first: first frame, flat (height, width).
        packed: second frame, of `pack`.
        state: (STATE, size); the start, then the solution.
        terms: (TERMS, size), overwritten.
        height: rows.
        width: columns.
        stride: from row to row of a plane.
        warps: linearisations of the second frame.
        outer: rounds of iterations per warp at most.
        inner: iterations per round.
        side: side of the median filter before each round, or 0.
        network: comparators of `median`.
        limit: lambda * theta; of primal-dual iterations lambda * tau.
        tau: time step; of primal-dual iterations the primal one.
        rate: tau / theta; of primal-dual iterations tau / (tau + theta).
        sigma: dual step of primal-dual iterations, or 0 for alternating ones.
        tolerance: a warp ends when an iteration's summed squared change is not above this. Where
            `next_block` foretold too many, some iterations more are made, at most a block less
            one: in 900 warps of real clips (18,450 iterations), twice one.
        cubic: the bicubic kernel's free parameter.
    """
    # The gradients must be zero after each row, where another scale has left its own.
    terms[: GY + 1, : (height + 2) * stride] = 0
    steps = np.zeros(stride, np.float32)
    steps[:width] = sigma if sigma > 0 else tau
    bars = np.zeros((2, 2 * LONGEST_BLOCK * stride + LANES), np.float32)
    errors = np.empty(LONGEST_BLOCK, np.float64)
    done = 0
    for _ in range(warps):
        linearise(first, packed, state, terms, height, width, stride, cubic)
        error = tolerance + 1
        for _ in range(outer):
            if error <= tolerance and tolerance > 0:
                break
            if side > 1:
                median(state[U], terms[SCRATCH], height, width, stride, side, network)
                median(state[V], terms[SCRATCH], height, width, stride, side, network)
            left, before = inner, 0.0
            while left > 0 and (error > tolerance or tolerance <= 0):
                count = next_block(error, before, tolerance, left)
                _block(
                    state, terms, bars, steps, height, width, stride, np.float32(limit),
                    np.float32(tau), np.float32(rate), sigma > 0, errors, count,
                )  # fmt: skip
                before = errors[count - 2] if count > 1 else (error if left < inner else 0.0)
                error = errors[count - 1]
                left -= count
                done += count
    return done

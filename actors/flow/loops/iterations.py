"""The iterations, many in one sweep: alternating ones as OpenCV's, and primal-dual ones.

A row is gone through `LANES` pixels at a time, a number known when the loop is compiled: they
become one vector or several, and no row of any width has pixels left over for a slower loop.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from actors.flow.compiling import compiled
from actors.flow.loops.planes import (
    I1,
    LANES,
    LONGEST_BLOCK,
    ONE,
    VECTOR,
    Index,
    Plane,
)

ROWS = 32
"""Rows whose squared changes are summed in single precision, which all of a large frame's are too
many for."""


@compiled()
def sums(height: int) -> int:
    """Sums of squared changes that `iterate` makes at most: `LANES` per iteration and `ROWS`."""
    return (height + ROWS - 1) // ROWS * LONGEST_BLOCK * LANES


@compiled(disjoint=True, inline=True)
def _primal_row(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, gx: Plane, gy: Plane,
    inverse: Plane, rho: Plane, at: Index, above: Index, vectors: Index, limit: Any,
    change: Plane, first: Index,
) -> None:  # fmt: skip
    """One row of u <- u + step g + theta div p; adds its squared changes to `change`.

    They go into `LANES` sums from `first` on. The step along the gradient is the thresholding
    operator (Zach et al., Eq. 15).
    """
    for vector in range(vectors):
        start = vector * VECTOR
        for lane in range(LANES):
            x = start + np.uintp(lane)
            i, j = at + x, above + x
            residual = rho[i] + gx[i] * u[i] + gy[i] * v[i]
            step = min(max(-residual * inverse[i], -limit), limit)
            du = step * gx[i] + ((ux[i] - ux[i - I1]) + (uy[i] - uy[j]))
            dv = step * gy[i] + ((vx[i] - vx[i - I1]) + (vy[i] - vy[j]))
            u[i] += du
            v[i] += dv
            change[first + np.uintp(lane)] += du * du + dv * dv


@compiled(disjoint=True, inline=True)
def _dual_row(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, tau: Plane, at: Index,
    below: Index, vectors: Index, rate: Any,
) -> None:  # fmt: skip
    """One row of p <- (p + tau grad u) / (1 + tau / theta |grad u|) (Zach et al., Eq. 14)."""
    for vector in range(vectors):
        start = vector * VECTOR
        for lane in range(LANES):
            x = start + np.uintp(lane)
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
    rate: Any, change: Plane, count: int,
) -> None:  # fmt: skip
    """So many iterations in one sweep over the planes, each a row behind the one before it.

    Row y of u needs rows y-1 and y of the old p, row y-1 of p needs rows y-1 and y of the new u.
    So iteration k may do row y of u and row y-1 of p as soon as iteration k-1 has done row y of p,
    and all the rows it needs are still in the cache.

    Source: Zach, Pock and Bischof (2007), Eq. 14 and 15.

    Args:
        u: plane of the displacements along x in pixels; updated, as the five after it.
        v: along y.
        ux: of u's dual variables, times theta, along x.
        uy: along y.
        vx: of v's.
        vy: along y.
        gx: of the warped second frame's gradient along x, intensity per pixel.
        gy: along y.
        inverse: of 1 / |g|^2, 0 where flat.
        rho: of the residual at zero flow, intensity.
        tau: (stride); time step of each column: 0 in the columns after the frame, which thus stay
            zero.
        height: rows.
        width: columns.
        stride: from row to row of a plane.
        limit: lambda * theta, the longest step in units of g.
        rate: tau / theta.
        change: (at least `sums(height)`); written: squared changes, for `total`.
        count: iterations, at most LONGEST_BLOCK.
    """
    change[: sums(height)] = 0
    columns, pitch = np.uintp(width), np.uintp(stride)
    vectors = (columns + np.uintp(LANES - 1)) // VECTOR
    for front in range(height + count):
        for k in range(max(front - height, 0), min(count, front + 1)):
            y = front - k
            at = np.uintp(y + 1) * pitch
            if y < height:
                _primal_row(
                    u, v, ux, uy, vx, vy, gx, gy, inverse, rho, at, at - pitch, vectors, limit,
                    change, np.uintp(y // ROWS * LONGEST_BLOCK + k) * VECTOR,
                )  # fmt: skip
                # No change across the right edge.
                u[at + columns] = u[at + columns - I1]
                v[at + columns] = v[at + columns - I1]
            if y > 0:
                below = at if y < height else at - pitch
                _dual_row(u, v, ux, uy, vx, vy, tau, at - pitch, below, vectors, rate)


@compiled(disjoint=True, inline=True)
def _primal_step_row(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, gx: Plane, gy: Plane,
    inverse: Plane, rho: Plane, bar_u: Plane, bar_v: Plane, at: Index, above: Index, bar: Index,
    vectors: Index, tau: Any, limit: Any, share: Any, change: Plane, first: Index,
) -> None:  # fmt: skip
    """One row of u <- prox(u + tau div p), and of u extrapolated; adds its squared changes.

    The proximal map is that of tau times the data term's Moreau envelope of width theta, which the
    coupling of `_primal_row` amounts to: `share` of the way to its thresholding operator.
    """
    for vector in range(vectors):
        start = vector * VECTOR
        for lane in range(LANES):
            x = start + np.uintp(lane)
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
            change[first + np.uintp(lane)] += du * du + dv * dv


@compiled(disjoint=True, inline=True)
def _dual_step_row(
    ux: Plane, uy: Plane, vx: Plane, vy: Plane, bar_u: Plane, bar_v: Plane, sigma: Plane,
    at: Index, bar: Index, below: Index, vectors: Index,
) -> None:  # fmt: skip
    """One row of p <- (p + sigma grad u) / max(1, |p + sigma grad u|), u being extrapolated."""
    for vector in range(vectors):
        start = vector * VECTOR
        for lane in range(LANES):
            x = start + np.uintp(lane)
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
    stride: int, tau: Any, limit: Any, share: Any, change: Plane, count: int,
) -> None:  # fmt: skip
    """As `iterate`, of Chambolle and Pock's iterations; the dual variables are not times theta.

    Source: Chambolle and Pock (2011), Algorithm 1.

    Args (others as of `iterate`):
        bar_u: two rows of extrapolated displacements per iteration, 2 * LONGEST_BLOCK * stride and
            a cache line; scratch.
        bar_v: likewise.
        sigma: (stride); dual step of each column: 0 in the columns after the frame.
        tau: primal step.
        limit: lambda * tau.
        share: tau / (tau + theta).
    """
    change[: sums(height)] = 0
    columns, pitch = np.uintp(width), np.uintp(stride)
    vectors = (columns + np.uintp(LANES - 1)) // VECTOR
    for front in range(height + count):
        for k in range(max(front - height, 0), min(count, front + 1)):
            y = front - k
            at = np.uintp(y + 1) * pitch
            here, before = np.uintp(2 * k + y % 2) * pitch, np.uintp(2 * k + (y + 1) % 2) * pitch
            if y < height:
                _primal_step_row(
                    u, v, ux, uy, vx, vy, gx, gy, inverse, rho, bar_u, bar_v, at, at - pitch,
                    here, vectors, tau, limit, share, change,
                    np.uintp(y // ROWS * LONGEST_BLOCK + k) * VECTOR,
                )  # fmt: skip
                # No change across the right edge.
                bar_u[here + columns] = bar_u[here + columns - I1]
                bar_v[here + columns] = bar_v[here + columns - I1]
            if y > 0:
                below = here if y < height else before
                _dual_step_row(
                    ux, uy, vx, vy, bar_u, bar_v, sigma, at - pitch, before, below, vectors
                )


@compiled()
def total(change: Plane, height: int, k: int) -> float:
    """The squared change of the whole frame in iteration k, in double precision."""
    found = 0.0
    for rows in range((height + ROWS - 1) // ROWS):
        for lane in range(LANES):
            found += change[(rows * LONGEST_BLOCK + k) * LANES + lane]
    return found


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

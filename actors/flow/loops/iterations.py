"""Iterations of TV-L1, several per sweep: alternating ones as in OpenCV, and primal-dual ones.

A row is processed in blocks of `LANES` pixels. The block size is known at compile time, so a block
becomes one or more vectors, and no row has a remainder for a slower loop.
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
"""Rows whose squared changes are summed in single precision; `total` adds these sums in double
precision."""


@compiled()
def sums(height: int) -> int:
    """Size of `change` in `iterate`: `LANES` sums per iteration and block of `ROWS` rows."""
    return (height + ROWS - 1) // ROWS * LONGEST_BLOCK * LANES


@compiled(disjoint=True, inline=True)
def _primal_row(
    u: Plane, v: Plane, ux: Plane, uy: Plane, vx: Plane, vy: Plane, gx: Plane, gy: Plane,
    inverse: Plane, rho: Plane, at: Index, above: Index, vectors: Index, limit: Any,
    change: Plane, first: Index,
) -> None:  # fmt: skip
    """One row of u <- u + step g + theta div p.

    Adds the squared changes to the `LANES` sums of `change` from `first` on. The step along the
    gradient is the thresholding operator (Zach et al., Eq. 15).
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
    """Runs `count` iterations in one sweep over the planes, each one row behind the previous one.

    Row y of u needs rows y-1 and y of the old p; row y-1 of p needs rows y-1 and y of the new u.
    So iteration k computes row y of u and row y-1 of p as soon as iteration k-1 has computed row y
    of p, and all rows it reads are still in the cache.

    Source: Zach, Pock and Bischof (2007), Eq. 14 and 15.

    Args:
        u: plane of displacements along x in pixels; updated.
        v: plane of displacements along y; updated.
        ux: plane of u's dual variable along x, times theta; updated.
        uy: u's dual variable along y; updated.
        vx: v's dual variable along x; updated.
        vy: v's dual variable along y; updated.
        gx: plane of the warped second frame's gradient along x, intensity per pixel.
        gy: its gradient along y.
        inverse: plane of 1 / |g|^2, 0 where flat.
        rho: plane of the residual at zero flow, intensity.
        tau: (stride); time step of each column, 0 in the columns after the frame, which stay zero.
        height: rows.
        width: columns.
        stride: elements from row to row of a plane.
        limit: lambda * theta, the longest step in units of g.
        rate: tau / theta.
        change: (at least `sums(height)`); written: squared changes, for `total`.
        count: number of iterations, at most `LONGEST_BLOCK`.
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
    """One row of u <- prox(u + tau div p) and of the extrapolated u; adds the squared changes.

    The proximal map is that of tau times the data term's Moreau envelope of width theta, to which
    the coupling in `_primal_row` is equivalent: `share` of the step to its thresholding operator.
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
    """One row of p <- (p + sigma grad u) / max(1, |p + sigma grad u|) with the extrapolated u."""
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
    """Runs `count` primal-dual iterations in one sweep, as `iterate` does with alternating ones.

    The dual variables are not multiplied by theta. Source: Chambolle and Pock (2011), Algorithm 1.

    Args (the others are those of `iterate`):
        bar_u: scratch of 2 * LONGEST_BLOCK * stride elements and a cache line: two rows of
            extrapolated displacements per iteration.
        bar_v: scratch of the same size.
        sigma: (stride); dual step of each column, 0 in the columns after the frame.
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
    """Returns the squared change of the whole frame in iteration k, in double precision."""
    found = 0.0
    for rows in range((height + ROWS - 1) // ROWS):
        for lane in range(LANES):
            found += change[(rows * LONGEST_BLOCK + k) * LANES + lane]
    return found


@compiled()
def next_block(error: float, before: float, tolerance: float, left: int) -> int:
    """Estimates from below the number of iterations until the change falls to the tolerance.

    The decay of the change slows down, so an extrapolation of the last iteration's decay gives too
    few rather than too many. A decay below 10 % per iteration counts as 10 %.

    Args:
        error: change of the last iteration.
        before: change of the iteration before it; 0 if unknown.
        tolerance: change at which to stop; 0: never.
        left: largest result.

    Returns:
        Number of iterations, at least 1.
    """
    if tolerance <= 0:
        return min(LONGEST_BLOCK, left)
    if before <= 0:
        return 1
    decay = max(math.log(before / error), 0.1)
    return max(1, min(LONGEST_BLOCK, left, int(math.log(error / tolerance) / decay)))

"""Solution of one pyramid scale: warps, rounds of iterations, and the median filter between them.

The loops release the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.flow.compiling import compiled
from actors.flow.loops.iterations import (
    iterate,
    iterate_primal_dual,
    next_block,
    sums,
    total,
)
from actors.flow.loops.planes import (
    GX,
    GY,
    INVERSE,
    LANES,
    LONGEST_BLOCK,
    RHO,
    SCRATCH,
    UX,
    UY,
    VX,
    VY,
    Index,
    Plane,
    U,
    V,
)
from actors.flow.loops.warp import linearize

ONE_BY_ONE = 64 * 64
"""Largest number of pixels of a scale whose stop rule is evaluated after each iteration. So small a
scale stays in the cache in any case, and the flow of small frames is more sensitive."""


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
    """Replaces each pixel by the median of the side x side pixels around it, edges replicated.

    Args:
        plane: plane to filter in place.
        scratch: plane for intermediate results.
        height: rows.
        width: columns.
        stride: elements from row to row of a plane.
        side: side of the square in pixels; odd.
        network: comparators from `actors.flow.networks.median_network`.
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
    limit: Any, tau: Any, rate: Any, primal_dual: bool, change: Plane, errors: NDArray[np.float64],
    count: int,
) -> None:  # fmt: skip
    """Runs `count` iterations of the chosen kind and writes their changes to `errors`."""
    if primal_dual:
        iterate_primal_dual(
            state[U], state[V], state[UX], state[UY], state[VX], state[VY], terms[GX], terms[GY],
            terms[INVERSE], terms[RHO], bars[0], bars[1], steps, height, width, stride, tau,
            limit, rate, change, count,
        )  # fmt: skip
    else:
        iterate(
            state[U], state[V], state[UX], state[UY], state[VX], state[VY], terms[GX], terms[GY],
            terms[INVERSE], terms[RHO], steps, height, width, stride, limit, rate, change, count,
        )  # fmt: skip
    for k in range(count):
        errors[k] = total(change, height, k)


@compiled()
def solve_scale(
    first: Plane, packed: Plane, state: Plane, terms: Plane, height: int, width: int, stride: int,
    warps: int, outer: int, inner: int, side: int, network: NDArray[np.int32], limit: float,
    tau: float, rate: float, sigma: float, tolerance: float, cubic: float,
) -> int:  # fmt: skip
    """Refines the flow of one pyramid scale in place.

    Args:
        first: first frame, flat (height, width).
        packed: second frame, from `warp.pack`.
        state: (STATE, size); initial state on entry, solution on return.
        terms: (TERMS, size); overwritten.
        height: rows.
        width: columns.
        stride: elements from row to row of a plane.
        warps: number of warps of the second frame.
        outer: largest number of rounds of iterations per warp.
        inner: iterations per round.
        side: side of the median filter before each round, or 0.
        network: comparators of `median`.
        limit: lambda * theta; for primal-dual iterations lambda * tau.
        tau: time step; for primal-dual iterations the primal step.
        rate: tau / theta; for primal-dual iterations tau / (tau + theta).
        sigma: dual step of primal-dual iterations; 0 for alternating iterations.
        tolerance: a warp ends when the summed squared change of an iteration is at most this.
            An overestimate of `next_block` adds some iterations, less than a block and mostly none
            (see docs/flow.md), but never in scales of `ONE_BY_ONE` pixels or fewer.
        cubic: free parameter of the bicubic kernel.

    Returns:
        Number of iterations.
    """
    steps = np.zeros(stride, np.float32)
    steps[:width] = sigma if sigma > 0 else tau
    bars = np.zeros((2, 2 * LONGEST_BLOCK * stride + LANES), np.float32)
    change = np.empty(sums(height), np.float32)
    errors = np.empty(LONGEST_BLOCK, np.float64)
    one_by_one = tolerance > 0 and height * width <= ONE_BY_ONE
    done = 0
    for _ in range(warps):
        linearize(first, packed, state, terms, height, width, stride, cubic)
        error = tolerance + 1
        for _ in range(outer):
            if error <= tolerance and tolerance > 0:
                break
            if side > 1:
                median(state[U], terms[SCRATCH], height, width, stride, side, network)
                median(state[V], terms[SCRATCH], height, width, stride, side, network)
            left, before = inner, 0.0
            while left > 0 and (error > tolerance or tolerance <= 0):
                count = 1 if one_by_one else next_block(error, before, tolerance, left)
                _block(
                    state, terms, bars, steps, height, width, stride, np.float32(limit),
                    np.float32(tau), np.float32(rate), sigma > 0, change, errors, count,
                )  # fmt: skip
                before = errors[count - 2] if count > 1 else (error if left < inner else 0.0)
                error = errors[count - 1]
                left -= count
                done += count
    return done

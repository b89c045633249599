"""Iterations of TV-L1 on a GPU, in Triton; `actors.flow.cuda.solver` launches them.

Layout. Each pair has two states, `room` elements apart; a launch reads one of them and writes the
other. A state is float32 (4, height, pitch): the displacements u and v in pixels, then the packed
dual variables of u and of v (`actors.flow.cuda.storage`). `data` is float32 (pairs, 3, height,
pitch): the warped gradient and the residual at zero flow.

Iterations. A warp of 32 lanes owns a strip of columns and walks down its rows. Once row y is
loaded, iteration 1 runs on row y, iteration 2 on row y - 1 and so on: the rows between stay in
registers, shuffles reach the neighbors in a row, and no barrier is needed. Each iteration
invalidates one more column on either side of the strip, so a strip overlaps its neighbors by HALO
columns and writes the 32 - 2 HALO columns in the middle.

Convergence. A program writes the summed squared change of its piece in each iteration of a launch
to `changes`. In the next launch all programs of a pair add these sums in the same order, so they
come to the same result. If the pair converged before the launch's last iteration, they repeat the
launch from the previous state with the number of iterations that was needed; then the pair is done
until its frame is warped again. Each program keeps in its own element of `slots` which state is
the latest (bit 0) and whether the pair is done (bit 1); no other program writes there.
"""

# Triton infers the types of a kernel's arguments; only compile-time constants are annotated.
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from actors.flow.cuda.pieces import HALO, LANES, latest, piece
from actors.flow.cuda.steps import FLAT, inverse, iteration, primal_dual_iteration
from actors.flow.cuda.storage import pack_dual, unpack_dual

UNROLL = tl.constexpr(2)
"""Rows per pass of the innermost loop; unrolling saves moves between registers."""


@triton.jit
def _needed(changes, previous, tolerance, PARTS: tl.constexpr):
    """Number of iterations of the previous launch after which the pair had converged.

    A number above `previous`, the iterations of that launch, if the pair had not converged.
    """
    parts = tl.num_programs(0)
    part = tl.arange(0, PARTS)[:, None]
    index = tl.arange(0, HALO)[None, :]
    ran = index < previous
    each = tl.load(changes + part * HALO + index, mask=(part < parts) & ran, other=0.0)
    total = tl.sum(each, 0, keep_dims=True)
    return tl.min(tl.min(tl.where((total <= tolerance) & ran, index, HALO) + 1, 1), 0)


@triton.jit
def _load_row(state, data, y, x, inside, height, pitch, EDGE: tl.constexpr):
    """Loads one row of a strip's state and data; zeros outside the image."""
    plane = height * pitch
    place = y * pitch + x
    if EDGE:
        inside &= y < height
    u = tl.load(state + place, mask=inside, other=0.0)
    v = tl.load(state + plane + place, mask=inside, other=0.0)
    pu = tl.load(state + 2 * plane + place, mask=inside, other=0.0)
    pv = tl.load(state + 3 * plane + place, mask=inside, other=0.0)
    gx = tl.load(data + place, mask=inside, other=0.0)
    gy = tl.load(data + plane + place, mask=inside, other=0.0)
    residual = tl.load(data + 2 * plane + place, mask=inside, other=0.0)
    return u, v, pu, pv, gx, gy, residual


@triton.jit
def _walk(
    walk, source, target, data, y, x, own, start, stop, height, width, pitch, limit, tau, rate,
    sigma, grain, count, EDGE: tl.constexpr, PARTIAL: tl.constexpr, PRIMAL_DUAL: tl.constexpr,
    ITERATIONS: tl.constexpr,
):  # fmt: skip
    """Takes row y, runs one iteration on each of the rows y, y - 1, ..., and stores the last one.

    Args:
        walk: state of the walk: row y as loaded; per iteration its result on the row above, the
            data terms that the next iteration needs, and the squared change.
        count: number of iterations that take effect, if PARTIAL.
        EDGE: whether rows outside the image or the piece can occur.
        PARTIAL: whether iterations from `count` on pass their input through.
        PRIMAL_DUAL: kind of iteration.

    Returns:
        `walk` for the next row.
    """
    loaded, aboves, terms, errors = walk
    u, v, pu, pv, gx, gy, residual = loaded
    inside = (x >= 0) & (x < width)
    # Loaded one row ahead, to hide the latency of memory.
    ahead = _load_row(source, data, y + 1, x, inside, height, pitch, EDGE)
    lane = tl.arange(0, LANES)[None, :]
    left = tl.broadcast_to(tl.maximum(lane - 1, 0), x.shape)
    right = tl.where(inside & (x < width - 1) & (lane < LANES - 1), lane + 1, lane)
    squared = gx * gx + gy * gy
    # Where it is flat the reciprocal may be infinite; it is not used there.
    reciprocal = tl.where(squared > FLAT, -inverse(tl.maximum(squared, FLAT)), 0.0)
    flow, term = (u, v), (gx, gy, reciprocal, residual)
    duals = unpack_dual(pu, grain) + unpack_dual(pv, grain)
    new_aboves, new_terms, new_errors = (), (), ()
    for k in tl.static_range(ITERATIONS):
        within_y = 1.0
        if EDGE:
            within_y = tl.where((y - k > 0) & (y - k < height), 1.0, 0.0)
        above = aboves[k]
        row, bars = flow + duals + term, ()
        if PRIMAL_DUAL:
            new, new_duals, squares, bars = primal_dual_iteration(
                row, above, left, right, within_y, limit, tau, rate, sigma
            )
        else:
            new, new_duals, squares = iteration(row, above, left, right, within_y, limit, tau, rate)
        if EDGE:
            squares = tl.where((y - k >= start) & (y - k < stop), squares, 0.0)
        if PARTIAL:
            new = tl.where(k < count, new[0], flow[0]), tl.where(k < count, new[1], flow[1])
            new_duals = (
                tl.where(k < count, new_duals[0], above[2]),
                tl.where(k < count, new_duals[1], above[3]),
                tl.where(k < count, new_duals[2], above[4]),
                tl.where(k < count, new_duals[3], above[5]),
            )
        new_aboves = new_aboves + (new + duals + bars,)
        new_terms = new_terms + (term,)
        new_errors = new_errors + (errors[k] + squares,)
        flow, duals, term = (above[0], above[1]), new_duals, terms[k]
    done = y - (ITERATIONS - 1)
    write = own
    if EDGE:
        write = own & (done >= start) & (done < stop)
    plane = height * pitch
    place = done * pitch + x
    tl.store(target + place, new_aboves[ITERATIONS - 1][0], mask=write)
    tl.store(target + plane + place, new_aboves[ITERATIONS - 1][1], mask=write)
    if EDGE:
        write = own & (done > start) & (done <= stop)
    place += 2 * plane - pitch
    tl.store(target + place, pack_dual(duals[0], duals[1], 1.0 / grain), mask=write)
    tl.store(target + plane + place, pack_dual(duals[2], duals[3], 1.0 / grain), mask=write)
    return ahead, new_aboves, new_terms, new_errors


@triton.jit
def _set_out(
    source, data, start, x, width, height, pitch, PRIMAL_DUAL: tl.constexpr,
    ITERATIONS: tl.constexpr,
):  # fmt: skip
    """Returns the first row of a walk to the row `start`, and the initial `walk`."""
    zero = tl.zeros(x.shape, tl.float32)
    aboves, terms, errors = (), (), ()
    for _ in tl.static_range(ITERATIONS):
        above = (zero, zero, zero, zero, zero, zero)
        if PRIMAL_DUAL:
            above = above + (zero, zero)
        aboves = aboves + (above,)
        terms = terms + ((zero, zero, zero, zero),)
        errors = errors + (zero,)
    first = tl.maximum(start - HALO, 0)
    row = _load_row(source, data, first, x, (x >= 0) & (x < width), height, pitch, True)
    return first, (row, aboves, terms, errors)


@triton.jit
def _advance(
    source, target, data, changes, x, own, start, stop, height, width, pitch, limit, tau, rate,
    sigma, grain, CHECK: tl.constexpr, PRIMAL_DUAL: tl.constexpr, ITERATIONS: tl.constexpr,
):  # fmt: skip
    """Runs ITERATIONS iterations on rows start..stop; writes squared changes to `changes`."""
    first, walk = _set_out(source, data, start, x, width, height, pitch, PRIMAL_DUAL, ITERATIONS)
    # Between these rows no iteration touches an edge of the piece, so no checks are needed.
    inner = start + ITERATIONS
    outer = tl.maximum(inner, tl.minimum(stop, height - 1))
    for y in range(first, inner):
        walk = _walk(
            walk, source, target, data, y, x, own, start, stop, height, width, pitch,
            limit, tau, rate, sigma, grain, 0, True, False, PRIMAL_DUAL, ITERATIONS,
        )  # fmt: skip
    for y in tl.range(inner, outer, loop_unroll_factor=UNROLL):
        walk = _walk(
            walk, source, target, data, y, x, own, start, stop, height, width, pitch,
            limit, tau, rate, sigma, grain, 0, False, False, PRIMAL_DUAL, ITERATIONS,
        )  # fmt: skip
    for y in range(outer, stop + ITERATIONS):
        walk = _walk(
            walk, source, target, data, y, x, own, start, stop, height, width, pitch,
            limit, tau, rate, sigma, grain, 0, True, False, PRIMAL_DUAL, ITERATIONS,
        )  # fmt: skip
    if CHECK:
        for k in tl.static_range(ITERATIONS):
            tl.store(changes + k, tl.sum(tl.sum(tl.where(own, walk[3][k], 0.0), 1), 0))


@triton.jit
def _advance_by(
    source, target, data, count, x, own, start, stop, height, width, pitch, limit, tau, rate, sigma,
    grain, PRIMAL_DUAL: tl.constexpr,
):  # fmt: skip
    """As `_advance` with `count` iterations, 1 to HALO - 1, known at run time: slower."""
    first, walk = _set_out(source, data, start, x, width, height, pitch, PRIMAL_DUAL, HALO - 1)
    for y in range(first, stop + HALO - 1):
        walk = _walk(
            walk, source, target, data, y, x, own, start, stop, height, width, pitch,
            limit, tau, rate, sigma, grain, count, True, True, PRIMAL_DUAL, HALO - 1,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "room", "step", "previous", "more", "height", "width", "pitch", "pieces_wide", "rows"
    ]
)  # fmt: skip
def iterate(
    states, slots, data, changes, room, step, previous, more, height, width, pitch, pieces_wide,
    rows, tolerance, limit, tau, rate, sigma, grain,
    CHECK: tl.constexpr, PRIMAL_DUAL: tl.constexpr, PARTS: tl.constexpr, STRIPS: tl.constexpr,
    ITERATIONS: tl.constexpr,
):  # fmt: skip
    """Runs a few iterations of each pair that has not converged.

    Grid: (pieces of the image, pairs); there are pieces_wide * ceil(height / rows) pieces.

    Args:
        states: two states of each pair.
        slots: int32 (pairs, pieces); which state is the latest, and whether the pair is done.
        data: data terms.
        changes: float32 (2, pairs, pieces, HALO); summed squared changes of the last two launches.
        room: elements between a pair's states.
        step: number of this launch since the frame was warped.
        previous: iterations of the previous launch, whose changes are evaluated now; or 0.
        more: whether pairs that have not converged continue (not 0).
        height: rows.
        width: columns.
        pitch: elements between rows.
        pieces_wide: number of pieces in a row.
        rows: rows of a piece.
        tolerance: a pair converges when the summed squared change of an iteration is at most this.
        limit: lambda * theta; for primal-dual iterations lambda * tau.
        tau: time step; for primal-dual iterations the primal step.
        rate: tau / theta; for primal-dual iterations tau / (tau + theta).
        sigma: dual step of primal-dual iterations.
        grain: unit of the stored dual variables.
        PRIMAL_DUAL: kind of iteration: primal-dual or alternating.
        CHECK: whether pairs may converge.
        PARTS: a power of two not below the number of pieces.
        STRIPS: strips of a piece, one warp each.
        ITERATIONS: 1 to HALO.
    """
    pair = tl.program_id(1).to(tl.int64)
    x, own = piece(width, pieces_wide, STRIPS)
    start = (tl.program_id(0) // pieces_wide) * rows
    stop = tl.minimum(start + rows, height)
    slot, state, source, target = latest(states, slots, room, pair)
    data += pair * 3 * height * pitch
    if CHECK:
        every = tl.num_programs(1).to(tl.int64) * tl.num_programs(0) * HALO
        mine = changes + pair * tl.num_programs(0) * HALO
        if (state < 2) | (step == 0):
            needed = _needed(mine + ((step + 1) & 1) * every, previous, tolerance, PARTS)
            if needed <= previous:
                if needed < previous:
                    _advance_by(
                        target, source, data, needed, x, own, start, stop, height, width, pitch,
                        limit, tau, rate, sigma, grain, PRIMAL_DUAL,
                    )  # fmt: skip
                tl.store(slot, (state & 1) + 2)
            elif more != 0:
                _advance(
                    source, target, data, mine + (step & 1) * every + tl.program_id(0) * HALO,
                    x, own, start, stop, height, width, pitch, limit, tau, rate, sigma,
                    grain, True, PRIMAL_DUAL, ITERATIONS,
                )  # fmt: skip
                tl.store(slot, 1 - (state & 1))
    else:
        _advance(
            source, target, data, changes, x, own, start, stop, height, width, pitch,
            limit, tau, rate, sigma, grain, False, PRIMAL_DUAL, ITERATIONS,
        )  # fmt: skip
        tl.store(slot, 1 - (state & 1))

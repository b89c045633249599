"""The median filter between rounds of TV-L1's iterations on a GPU, in Triton.

States and slots are described in `actors.flow.cuda.iterations`.
"""

# Triton infers the types of a kernel's arguments; only compile-time constants are annotated.
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from actors.flow.cuda.pieces import latest, piece


@triton.jit
def _without_extremes(values, SIZE: tl.constexpr):
    """Returns the values without the smallest and the largest one."""
    least = values[0]
    rest = ()
    for i in tl.static_range(1, SIZE):
        rest = rest + (tl.maximum(least, values[i]),)
        least = tl.minimum(least, values[i])
    most = rest[0]
    kept = ()
    for i in tl.static_range(1, SIZE - 1):
        kept = kept + (tl.minimum(most, rest[i]),)
        most = tl.maximum(most, rest[i])
    return kept


@triton.jit
def _median(image, y, x, own, height, width, pitch, SIDE: tl.constexpr):
    """Median of the SIDE x SIDE pixels around each pixel; edges are replicated.

    The smallest and the largest of any n // 2 + 2 of the n values can't be the median: they are
    dropped, the next value is added, and so on.
    """
    values = ()
    for k in tl.static_range(SIDE * SIDE):
        row = tl.minimum(tl.maximum(y + (k // SIDE - SIDE // 2), 0), height - 1)
        column = tl.minimum(tl.maximum(x + (k % SIDE - SIDE // 2), 0), width - 1)
        values = values + (tl.load(image + row * pitch + column, mask=own, other=0.0),)
    kept = ()
    for k in tl.static_range(SIDE * SIDE // 2 + 2):
        kept = kept + (values[k],)
    for k in tl.static_range(SIDE * SIDE // 2 + 2, SIDE * SIDE):
        kept = _without_extremes(kept, 2 * (SIDE * SIDE // 2 + 2) - k)
        kept = kept + (values[k],)
    return _without_extremes(kept, 3)[0]


@triton.jit(do_not_specialize=["room", "step", "height", "width", "pitch", "pieces_wide", "rows"])
def filter_flow(
    states, slots, room, step, height, width, pitch, pieces_wide, rows,
    STRIPS: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Median-filters the flow of each pair that is not done, from its latest state to the other.

    Grid and arguments are those of `iterations.iterate`; SIDE is the side of the filter in pixels.
    """
    pair = tl.program_id(1).to(tl.int64)
    x, own = piece(width, pieces_wide, STRIPS)
    start = (tl.program_id(0) // pieces_wide) * rows
    stop = tl.minimum(start + rows, height)
    plane = height * pitch
    slot, state, source, target = latest(states, slots, room, pair)
    if (state < 2) | (step == 0):
        for y in range(start, stop):
            for k in tl.static_range(2):
                middle = _median(source + k * plane, y, x, own, height, width, pitch, SIDE)
                place = k * plane + y * pitch + x
                tl.store(target + place, middle, mask=own)
                place += 2 * plane
                tl.store(target + place, tl.load(source + place, mask=own, other=0.0), mask=own)
        tl.store(slot, 1 - (state & 1))

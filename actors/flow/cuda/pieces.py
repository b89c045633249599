"""Pieces of a frame and the states of a pair, for the Triton kernels of `actors.flow.cuda`."""

# Triton infers the types of a kernel's arguments; only compile-time constants are annotated.
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(32)
HALO = tl.constexpr(4)
"""Largest number of iterations per launch; columns and rows that neighboring pieces share."""


@triton.jit
def piece(width, pieces_wide, STRIPS: tl.constexpr):
    """Columns of this program's lanes, and which of them the program writes."""
    lane = tl.arange(0, LANES)[None, :]
    strip = (tl.program_id(0) % pieces_wide) * STRIPS + tl.arange(0, STRIPS)[:, None]
    x = strip * (LANES - 2 * HALO) - HALO + lane
    return x, (lane >= HALO) & (lane < LANES - HALO) & (x < width)


@triton.jit
def latest(states, slots, room, pair):
    """Finds a pair's latest state.

    Returns:
        The slot of this piece, its value (bit 0: which state is the latest; bit 1: the pair is
        done), the latest state, and the other one, which is written next.
    """
    slot = slots + pair * tl.num_programs(0) + tl.program_id(0)
    state = tl.load(slot)
    tl.debug_barrier()  # The first warp to end writes the slot; by then all have read it.
    side = state & 1
    first = states + pair * 2 * room
    return slot, state, first + side * room, first + (1 - side) * room

"""How a run's rows are shared out over its workers. Computes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

SHARES = 2
"""A block is this part of a worker's share of the rows that are left (1/2),"""

SMALLEST = 32
"""but not less than this part of a worker's share of all rows (1/32)."""

GROUPS = 16
"""Number of times that a block reports its outcomes."""


def cut_blocks(rows: Sequence[T], workers: int) -> list[list[T]]:
    """Cuts the rows into blocks of falling size, in random order.

    Each block costs the time in which its worker is idle before it (Ray Data notices the end of a
    task up to 0.1 s late); so there are few, and the last ones are small, so that all workers end
    at about the same time (guided self-scheduling, Polychronopoulos and Kuck 1987). As the order
    is random, but the same each time, no block has all the long clips.

    Args:
        rows: any objects.
        workers: number of processes, at least 1.
    """
    left = list(rows)
    smallest = math.ceil(len(left) / (SMALLEST * workers))
    random.Random(0).shuffle(left)
    blocks = []
    while left:
        size = max(math.ceil(len(left) / (SHARES * workers)), smallest)
        blocks.append(left[:size])
        left = left[size:]
    return blocks


def groups(block: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yields a block in at most `GROUPS` parts of equal size (the last one may be smaller)."""
    size = math.ceil(len(block) / GROUPS)
    for first in range(0, len(block), max(size, 1)):
        yield block[first : first + size]

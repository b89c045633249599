"""Sorting networks, for the median filter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _sorting_network(count: int) -> list[tuple[int, int]]:
    """Comparators (low, high) of Batcher's odd-even merge sort (Knuth 5.2.2, Algorithm M)."""
    comparators = []
    top = 1 << max(count - 1, 1).bit_length() - 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            comparators += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return comparators


def median_network(side: int) -> NDArray[np.int32]:
    """Returns the comparators that move the median of side * side values to the middle position.

    They are the comparators of a sorting network on which the middle position depends.

    Args:
        side: side of the square in pixels; odd, or 0 for no comparators.

    Returns:
        int32 (n, 2), positions; a comparator moves the smaller of its two values to the first.
    """
    count = side * side
    needed, kept = {count // 2}, []
    for pair in reversed(_sorting_network(count) if count > 1 else []):
        if needed & set(pair):
            needed |= set(pair)
            kept.append(pair)
    return np.array(kept[::-1], np.int32).reshape(-1, 2)

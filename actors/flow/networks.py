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
    """Comparators that bring the median of side * side values to their middle place.

    Those of a sorting network on which the middle depends.

    Args:
        side: odd, or 0.

    Returns:
        int32 (n, 2): after each in turn the smaller of the two values is at the first place.
    """
    count = side * side
    needed, kept = {count // 2}, []
    for pair in reversed(_sorting_network(count) if count > 1 else []):
        if needed & set(pair):
            needed |= set(pair)
            kept.append(pair)
    return np.array(kept[::-1], np.int32).reshape(-1, 2)

"""Loops over flow fields, compiled by Numba. One thread per call; the lock is released."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.flow.compiling import compiled


@compiled(exact=True)  # ties must round as the rule says
def quantize_into(levels: NDArray[np.uint8], flow: NDArray[np.floating], bound: float) -> None:
    """Writes `fields.quantize` of the flow in one pass; both arrays one-dimensional."""
    width = 2 * bound
    for i in range(flow.size):
        # In double precision: 255 * (v + b) / (2 b) is to hit its halves exactly.
        value = min(max(np.float64(flow[i]), -bound), bound)
        levels[i] = np.uint8(np.rint((value + bound) * 255.0 / width))

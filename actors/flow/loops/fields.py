"""Loops over flow fields, compiled by Numba. They release the interpreter's lock."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.flow.compiling import compiled


@compiled(exact=True)  # ties must round half to even
def quantize_into(levels: NDArray[np.uint8], flow: NDArray[np.floating], bound: float) -> None:
    """Writes `fields.quantize` of the flow to `levels` in one pass; both are one-dimensional."""
    width = 2 * bound
    for i in range(flow.size):
        # In double precision, so that ties of 255 * (v + b) / (2 b) are exact.
        value = min(max(np.float64(flow[i]), -bound), bound)
        levels[i] = np.uint8(np.rint((value + bound) * 255.0 / width))

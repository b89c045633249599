"""Memory layout of the loops' variables.

Intensities are 0..255, displacements are in pixels, all values are float32. Images are flat arrays:
row y starts at ``y * width``. A variable of the iteration is a *plane*: row y starts at
``(y + 1) * stride``, and the stride is a multiple of `LANES` above the width. The zeros before row
0 and after each row represent the outside of the frame, so the loops need no checks of the borders.
All rows have the same alignment to cache lines, which makes the loops about 20 % faster.

Indices are unsigned: Numba handles negative values of signed ones, which prevents vectorization.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Index = Any
"""np.uintp; mypy does not know Numba's unsigned integers."""

LANES = 16
"""Number of float32 in a cache line and in the widest vectors."""
MARGIN = 4
"""Width in pixels of the zeros around a packed image; bicubic taps reach no further."""
LONGEST_BLOCK = 8
"""Largest number of iterations in one sweep."""
U, V, UX, UY, VX, VY = range(6)
"""Indices of the state's planes: displacements and their duals (times theta in `iterate`)."""
STATE = VY + 1
GX, GY, INVERSE, RHO, SCRATCH = range(5)
"""Indices of the data term's planes: gradient of the warped second frame, inverse of its squared
norm (0 where flat), residual at zero flow, and scratch for the median."""
TERMS = SCRATCH + 1

FLAT = np.float32(np.finfo(np.float32).eps)
"""Smallest squared gradient that counts as texture."""
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
VECTOR = np.uintp(LANES)
"""`LANES` as an index."""
I0, I1, I2, I3, I4, I5, I6, I7 = (np.uintp(n) for n in range(8))

"""How the loops' variables lie in memory.

Intensities are 0..255, displacements are in pixels, everything is float32. Images are flat arrays:
row y of a frame starts at ``y * width``. A variable of the iteration is a *plane*, row y of which
starts at ``(y + 1) * stride``, stride being a multiple of `LANES` above the width. The zeros
before row 0 and after each row stand for what lies outside the frame, so that no loop asks where
it is; and rows start at the same place in a cache line, which alone is a fifth of the speed.

Indices are unsigned: for signed ones Numba looks after negative values, which LLVM then can't
vectorize.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Index = Any
"""np.uintp; for Numba, whose unsigned integers mypy doesn't know."""

LANES = 16
"""Floats in a cache line, and in the widest vectors there are."""
MARGIN = 4
"""Pixels of zeros around a packed image: the taps of a point next to the frame go no further."""
LONGEST_BLOCK = 8
"""Iterations that may be under way at once."""
U, V, UX, UY, VX, VY = range(6)
"""Planes of the state: displacements and their duals (times theta in `iterate`)."""
STATE = VY + 1
GX, GY, INVERSE, RHO, SCRATCH = range(5)
"""Planes of the data term: gradients of the warped second frame, the inverse of their squared norm
(0 where flat), the residual at zero flow, and room for the median."""
TERMS = SCRATCH + 1

FLAT = np.float32(np.finfo(np.float32).eps)
"""A squared gradient below this carries no motion."""
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
VECTOR = np.uintp(LANES)
"""`LANES` as an index."""
I0, I1, I2, I3, I4, I5, I6, I7 = (np.uintp(n) for n in range(8))

"""Compiles the loops of the optical flow: ``python -m actors.flow``, part of the installation."""

from __future__ import annotations

import numpy as np

from actors.flow import compile_kernels, quantize

if __name__ == "__main__":
    quantize(np.zeros((1, 2, 16, 16), np.float32))
    print(f"optical flow: loops ready after {compile_kernels():.1f} s")

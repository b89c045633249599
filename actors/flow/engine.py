"""What computes flow inside an actor, whatever device it computes on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.errors import UserError
from actors.flow.settings import TVL1
from actors.flow.tvl1 import flow


class FlowEngine(Protocol):
    """Finds the flow of a clip's frames."""

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Gray uint8 (T, H, W) to float32 (T - 1, 2, H, W): pixels, x first."""
        ...


@dataclass(frozen=True)
class CPUEngine:
    """TV-L1 on one CPU core."""

    settings: TVL1

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return flow(frames, self.settings)


def get_engine(settings: TVL1, device: str = "cpu") -> FlowEngine:
    """The engine for a device.

    Args:
        settings: parameters of the flow.
        device: "cpu".

    Raises:
        UserError: there is no engine for the device.
    """
    if device != "cpu":
        raise UserError(f"no optical flow for device {device!r}; choose 'cpu'")
    return CPUEngine(settings)


def compile_kernels() -> float:
    """Compiles the flow's loops, or loads them where Numba's cache has them already.

    Done once after installation, so that no job waits for it. Numba keeps the result beside the
    package, in the user's cache folder where that can't be written, or in NUMBA_CACHE_DIR.

    Returns:
        Seconds it took.
    """
    start = time.perf_counter()
    # Large enough for two scales, so that each loop is called with the types it will meet.
    frames = np.zeros((2, 32, 32), np.uint8)
    flow(frames, TVL1(scales=2, warps=1, outer_iterations=1, median_filtering=3))
    return time.perf_counter() - start

"""Engines of optical flow: their protocol, the CPU's engine, and the choice of one by device."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.errors import UserError
from actors.flow.settings import TVL1
from actors.flow.tvl1 import flow

if TYPE_CHECKING:
    from actors.flow.choice import RAFT

log = logging.getLogger(__name__)


class FlowEngine(Protocol):
    """Computes the optical flow of a clip's frames, or of pairs of frames."""

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Computes the flow in pixels, x first.

        Args:
            frames: uint8; (T, H, W) gray or (T, 3, H, W) RGB frames of a clip, or (N, 2, H, W)
                pairs of gray frames.

        Returns:
            float32 (max(T - 1, 0), 2, H, W) or (N, 2, H, W).

        Raises:
            ValueError: the frames have another shape or dtype, or are too small.
        """
        ...


@dataclass(frozen=True)
class CPUEngine:
    """TV-L1 on CPU cores; see `actors.flow.tvl1.flow`."""

    settings: TVL1
    threads: int = 1
    """Number of threads that work on the pairs of a call."""
    note: str | None = field(default=None, compare=False)
    """Reason why an existing GPU is not used; None without one."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UserError(f"flow: threads is {self.threads!r}; it must be at least 1")

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return flow(frames, self.settings, threads=self.threads)


def get_engine(
    settings: TVL1 | RAFT, device: str = "cpu", threads: int = 1, share: float = 1.0
) -> FlowEngine:
    """Returns an engine for a device.

    Args:
        settings: parameters of the flow: `TVL1` or `actors.flow.choice.RAFT`.
        device: "cpu", "cuda", "cuda:N" or "auto": a GPU if PyTorch finds one. Where TV-L1's kernels
            can't run on it, "auto" is the CPU, with a warning in the log and a `CPUEngine.note`.
        threads: number of threads of TV-L1 on the CPU.
        share: largest share of a GPU's memory that the engine may use.

    Raises:
        UserError: the device is unknown or doesn't exist, RAFT's weights are not available, or
            threads is below 1.
    """
    if device == "auto":
        return _automatic(settings, threads, share)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(
            f"no optical flow for device {device!r}; choose 'auto', 'cpu', 'cuda' or 'cuda:0'"
        )
    if not isinstance(settings, TVL1):
        from actors.flow.raft import RAFTEngine

        return RAFTEngine(settings, device, share)
    if device == "cpu":
        return CPUEngine(settings, threads)
    from actors.flow.cuda.engine import CUDAEngine

    return CUDAEngine(settings, device, share=share)


def _automatic(settings: TVL1 | RAFT, threads: int, share: float) -> FlowEngine:
    import torch  # takes a second, and TV-L1 on the CPU does not need it

    from actors.flow.devices import UnusableGPU

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return get_engine(settings, device, threads, share)
    except UnusableGPU as error:
        if not isinstance(settings, TVL1):  # RAFT runs on PyTorch's own kernels
            raise
        cause = f"optical flow runs on the CPU because the GPU can't be used: {error.cause}"
        log.warning(cause)
        return CPUEngine(settings, threads, note=cause)


def is_on_gpu(engine: FlowEngine | None) -> bool:
    """Whether the engine computes on a GPU, which leaves the CPU to others."""
    return getattr(getattr(engine, "device", None), "type", "cpu") == "cuda"


def compile_kernels() -> float:
    """Compiles the flow's loops, or loads them from the cache on disk.

    The installation calls it once, so that no job has to wait. For the cache's place see
    `actors.flow.compiling.cache_folder`.

    Returns:
        Duration in seconds.
    """
    start = time.perf_counter()
    # Two scales, so that each loop is compiled for the types of a real call.
    frames = np.zeros((2, 32, 32), np.uint8)
    short = TVL1(scales=2, warps=1, outer_iterations=1, median_filtering=3)
    for settings in (short, replace(short, solver="primal_dual", tau=0.2)):
        flow(frames, settings)
    return time.perf_counter() - start

"""What computes flow inside an actor, whatever device it computes on."""

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
    from actors.flow.raft import RAFT

log = logging.getLogger(__name__)


class FlowEngine(Protocol):
    """Finds the flow of a clip's frames, or of pairs of frames."""

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Flow in pixels, x first.

        Args:
            frames: uint8 (T, H, W) gray or (T, 3, H, W) RGB for a clip, (N, 2, H, W) for pairs of
                gray frames.

        Returns:
            float32 (max(T - 1, 0), 2, H, W) or (N, 2, H, W).

        Raises:
            ValueError: the frames' shape, type or size is not as above.
        """
        ...


@dataclass(frozen=True)
class CPUEngine:
    """TV-L1 on CPU cores."""

    settings: TVL1
    threads: int = 1
    """How many threads share the pairs of a call out among them."""
    note: str | None = field(default=None, compare=False)
    """Why not a GPU, where one is there that can't be used."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UserError(f"flow: threads is {self.threads!r}; it must be at least 1")

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return flow(frames, self.settings, threads=self.threads)


def get_engine(
    settings: TVL1 | RAFT, device: str = "cpu", threads: int = 1, share: float = 1.0
) -> FlowEngine:
    """The engine for a device.

    Args:
        settings: parameters of the flow: `TVL1`, or `actors.flow.raft.RAFT`.
        device: "cpu", "cuda" or "cuda:N"; "auto" for a GPU where PyTorch sees one, and the CPU
            where the kernels can't run on it, with a warning in the log and a `CPUEngine.note`.
        threads: threads of TV-L1 on the CPU.
        share: of a GPU's memory that the engine may take, at most.

    Raises:
        UserError: there is no engine for the device, or no such GPU, RAFT's weights can't be had,
            or threads is below 1.
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
    import torch  # a second, which the CPU's TV-L1 need not wait for

    from actors.flow.devices import UnusableGPU

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return get_engine(settings, device, threads, share)
    except UnusableGPU as error:
        if not isinstance(settings, TVL1):  # RAFT needs no kernels but PyTorch's
            raise
        cause = f"optical flow runs on the CPU, for the GPU can't be used: {error.cause}"
        log.warning(cause)
        return CPUEngine(settings, threads, note=cause)


def is_on_gpu(engine: FlowEngine | None) -> bool:
    """Whether the engine leaves the CPU free while it works."""
    return getattr(getattr(engine, "device", None), "type", "cpu") == "cuda"


def compile_kernels() -> float:
    """Compiles the flow's loops, or loads them where the cache on disk has them already.

    Done once after installation, so that no job waits for it; `actors.flow.compiling` says where
    the result is kept.

    Returns:
        Seconds it took.
    """
    start = time.perf_counter()
    # Large enough for two scales, so that each loop is called with the types it will meet.
    frames = np.zeros((2, 32, 32), np.uint8)
    short = TVL1(scales=2, warps=1, outer_iterations=1, median_filtering=3)
    for settings in (short, replace(short, solver="primal_dual", tau=0.2)):
        flow(frames, settings)
    return time.perf_counter() - start

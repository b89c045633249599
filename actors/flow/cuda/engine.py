"""TV-L1 on a GPU, many pairs per batch: the computation of `actors.flow.tvl1` in Triton kernels.

The host only queues work, for at most two batches at a time. Convergence is known on the device
only: each warp gets the largest number of launches that it may need, and launches for pairs that
have converged return at once.

Each warp of a pair runs the number of iterations that the stop rule gives; the CPU runs a few more
where its blocks overshoot (`loops.scale.solve_scale`). Other differences from the CPU are the
storage of dual variables in 16 bits and of frames in 21 bits, and the order of sums. The same
frames and the same batch size give the same result bit for bit.
"""

from __future__ import annotations

import importlib
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.errors import UserError
from actors.flow.cuda.batches import IN_FLIGHT, CUDAStreams, NoStreams, Slot, ceiling, solve_batches
from actors.flow.devices import Fitting, PairSize, UnusableGPU, check_present, free_memory
from actors.flow.fields import check_bound
from actors.flow.settings import TVL1
from actors.flow.tvl1 import check_frames

if TYPE_CHECKING:
    from actors.flow.cuda.solver import Record, Solver

LEAST_CAPABILITY = (7, 0)
"""Compute capability of the oldest GPUs that Triton compiles for (Volta)."""
LARGEST_BATCH = 1024
"""Largest number of pairs per batch; larger batches do not use a GPU better."""
LARGEST_KEPT = 256
"""Largest number of pairs whose solver is kept between calls; for more, launches cost little."""


def _solver_class(device: torch.device) -> type[Solver]:
    """Returns the class that launches the Triton kernels, after a check that they run."""
    if device.type == "cuda":
        _check_gpu(device)
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        raise UnusableGPU(
            f"flow on a GPU needs Triton, which can't be imported ({error})",
            "Triton comes with PyTorch for CUDA: install that, or choose device 'cpu'",
        ) from error
    if device.type == "cuda":
        _try_kernel(device, triton.TritonError)
    elif device.type != "cpu" or not triton.knobs.runtime.interpret:
        raise UserError(
            f"flow device is {str(device)!r}; choose 'cuda', or 'cpu' with TRITON_INTERPRET=1 set "
            "to run the GPU's kernels in Triton's interpreter"
        )
    from actors.flow.cuda.solver import Solver  # imports Triton

    return Solver


def _recorder(device: torch.device) -> Record | None:
    """Returns the recorder of a batch's launches; None for the interpreter."""
    from actors.flow.cuda.solver import record_graph

    return record_graph if device.type == "cuda" else None


def _check_gpu(device: torch.device) -> None:
    """Raises `UnusableGPU` if PyTorch doesn't find the GPU, or Triton doesn't support it."""
    check_present(device)
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        has, needs = (".".join(map(str, c)) for c in (capability, LEAST_CAPABILITY))
        raise UnusableGPU(
            f"{name} has compute capability {has}, and Triton needs {needs} or above",
            "choose device 'cpu'",
        )


def _try_kernel(device: torch.device, *errors: type[Exception]) -> None:
    """Compiles and runs the smallest kernel, which has the requirements of all others.

    Raises:
        UnusableGPU: the kernel fails with one of Triton's `errors`, or with another one.
    """
    from actors.flow.cuda.solver import run_smallest

    kinds: tuple[type[Exception], ...] = (
        *errors,
        RuntimeError,
        OSError,
        ImportError,
        subprocess.SubprocessError,
    )
    try:
        run_smallest(device)
    except kinds as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise UnusableGPU(
            f"Triton can't run a kernel on {str(device)!r} ({type(error).__name__}: {first_line})",
            "Triton needs a driver that fits PyTorch's CUDA, and a C compiler such as gcc with "
            "Python's headers; install what is missing, or choose device 'cpu'",
        ) from error


def _room(batch: int, most: int) -> int:
    """Capacity of a solver in pairs; similar batch sizes share a capacity."""
    return batch if batch > LARGEST_KEPT else min(1 << (batch - 1).bit_length(), most)


def _gray(frames: torch.Tensor) -> torch.Tensor:
    """Luma of uint8 (T, 3, H, W), as by `actors.flow.tvl1.to_gray`."""
    red, green, blue = (frames[:, channel].to(torch.int32) for channel in range(3))
    return (9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15


def _quantized(flow: torch.Tensor, bound: float) -> torch.Tensor:
    """`actors.flow.fields.quantize` on the device, in double precision too."""
    level = (flow.clamp(-bound, bound).to(torch.float64) + bound) * 255 / (2 * bound)
    return level.round().to(torch.uint8)


class CUDAEngine:
    """TV-L1 on a GPU. Thread-safe; calls run one after another.

    Args:
        settings: parameters of the flow.
        device: "cuda" or "cuda:N"; "cpu" only with TRITON_INTERPRET=1, for tests of the kernels.
        batch: pairs per batch; None: as many as fit into the device's free memory.
        share: largest share of the device's memory.

    Raises:
        UnusableGPU: the device doesn't exist, or Triton doesn't run on it.
        UserError: the batch is not in 1..LARGEST_BATCH.
    """

    def __init__(
        self,
        settings: TVL1,
        device: str = "cuda",
        *,
        batch: int | None = None,
        share: float = 1.0,
    ) -> None:
        if batch is not None and not 1 <= batch <= LARGEST_BATCH:
            raise UserError(f"flow batch is {batch!r} pairs; choose 1 to {LARGEST_BATCH}")
        self.settings = settings
        self.device = torch.device(device)
        self.batch, self.share = batch, share
        self._solver_class = _solver_class(self.device)
        self._fitting = Fitting(self.device, share)
        self._lock = threading.Lock()
        self._kept: tuple[tuple[int, int, int, int], Solver] | None = None
        self._record = _recorder(self.device)

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Computes the flow from each frame to the next, or of each pair.

        Args:
            frames: uint8; (T, H, W) gray or (T, 3, H, W) RGB frames of a clip, or (N, 2, H, W)
                pairs of gray frames; at least 16 pixels wide and high.

        Returns:
            float32 (max(T - 1, 0), 2, H, W) or (N, 2, H, W): displacements in pixels, x first.

        Raises:
            ValueError: the frames have another shape or dtype, or are too small.
            UserError: the device's memory is too small for one pair.
        """
        return self._run(frames, None)

    def quantized(self, frames: NDArray[np.uint8], bound: float = 20.0) -> NDArray[np.uint8]:
        """Computes the flow and quantizes it on the device; see `actors.flow.fields.quantize`.

        Args:
            frames: as for a call.
            bound: largest displacement in pixels; larger ones are clipped.

        Returns:
            uint8 (max(T - 1, 0), 2, H, W) or (N, 2, H, W).

        Raises:
            ValueError: the frames are invalid, as for a call, or the bound is not above 0.
            UserError: the device's memory is too small for one pair.
        """
        check_bound(bound)
        return self._run(frames, bound)

    def _run(self, frames: NDArray[np.uint8], bound: float | None) -> NDArray[Any]:
        frames = check_frames(frames)
        paired = frames.ndim == 4 and frames.shape[1] == 2
        count = len(frames) if paired else max(len(frames) - 1, 0)
        height, width = frames.shape[-2:]
        on_gpu = self.device.type == "cuda"
        result = torch.empty(
            (count, 2, height, width),
            dtype=torch.float32 if bound is None else torch.uint8,
            pin_memory=on_gpu and count > 0,
        )
        if count:
            size = PairSize(height, width, self._bytes_per_pair(height, width, 1 + paired))
            with self._lock, torch.cuda.device(self.device if on_gpu else -1):
                most = self._most(height, width, 1 + paired, count)
                self._fitting.run(size, most, partial(self._fill, result, frames, bound))
        return result.numpy()

    def _fill(
        self, result: torch.Tensor, frames: NDArray[np.uint8], bound: float | None, most: int
    ) -> None:
        """Computes all fields, in equal batches of at most `most` pairs."""
        count, _, height, width = result.shape
        batch = ceiling(count, ceiling(count, most))
        step = 2 if frames.shape[1:-2] == (2,) else 1
        solver = self._solver(height, width, _room(batch, most), step)

        def solve(raw: torch.Tensor) -> torch.Tensor:
            flow = solver.solve(_gray(raw) if raw.ndim == 4 else raw)
            return flow if bound is None else _quantized(flow, bound)

        shape = frames.shape[2:] if step == 2 else frames.shape[1:]
        slots = [
            Slot(
                (step * (batch - 1) + 2, *shape),
                (batch, 2, height, width),
                result.dtype,
                self.device,
            )
            for _ in range(min(IN_FLIGHT, ceiling(count, batch)))
        ]
        queues = CUDAStreams() if self.device.type == "cuda" else NoStreams()
        solve_batches(_chunks(frames, result, batch), slots, solve, queues)

    def _solver(self, height: int, width: int, pairs: int, frame_step: int) -> Solver:
        """Returns a solver; a small one is kept for the next call, with its launches recorded."""
        size = (height, width, pairs, frame_step)
        if self._kept is not None and self._kept[0] == size:
            return self._kept[1]
        self._kept = None  # frees its memory for the new one
        small = pairs <= LARGEST_KEPT
        record = self._record if small else None
        solver = self._solver_class(
            self.settings, self.device, height, width, pairs, frame_step, record
        )
        if small:
            self._kept = size, solver
        return solver

    def _bytes_per_pair(self, height: int, width: int, frame_step: int) -> int:
        """Estimates a pair's memory on the device in bytes, for color frames."""
        waiting = IN_FLIGHT * (3 * frame_step + 2 * 4) * height * width
        solving = self._solver_class.bytes_per_pair(height, width, self.settings, frame_step)
        return waiting + solving

    def _most(self, height: int, width: int, frame_step: int, count: int) -> int:
        """Estimates the largest number of pairs per batch."""
        if self.batch is not None or self.device.type != "cuda":
            return self.batch or LARGEST_BATCH
        kept = None if self._kept is None else self._kept[0]
        if kept == (height, width, _room(count, LARGEST_BATCH), frame_step):
            return LARGEST_BATCH  # its memory is allocated
        self._kept = None  # so that every call finds the same free memory
        free = free_memory(self.device, self.share)
        # The rest is for other processes on the device.
        fitting = int(0.6 * free) // self._bytes_per_pair(height, width, frame_step)
        return max(1, min(LARGEST_BATCH, fitting))


def _chunks(
    frames: NDArray[np.uint8], result: torch.Tensor, batch: int
) -> Iterator[tuple[NDArray[np.uint8], torch.Tensor]]:
    """Yields the frames of each batch of pairs, and the part of the result for its fields."""
    for start in range(0, len(result), batch):
        stop = min(start + batch, len(result))
        if frames.shape[1:-2] == (2,):
            yield frames[start:stop].reshape(-1, *frames.shape[-2:]), result[start:stop]
        else:
            # Neighboring batches share a frame.
            yield frames[start : stop + 1], result[start:stop]

"""TV-L1 on a GPU, many pairs at once: what `actors.flow.tvl1` computes, by Triton's kernels.

The host only queues work; it waits once, for the result. How far each pair has come is known on
the device alone: every warp gets as many launches as it may need at most, and those of a pair that
has converged return at once.

Each warp of a pair takes as many iterations as on the CPU. The results differ in that the dual
variables are stored in 16 bits and the frames in 21, and in the order of sums. For the same frames
and the same batch size a result repeats to the bit.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.errors import UserError
from actors.flow.devices import free_memory
from actors.flow.settings import SMALLEST_SIDE, TVL1
from actors.flow.tvl1 import check_frames

LARGEST_BATCH = 1024
"""Pairs at once at most; more no longer help to fill a GPU."""
TILE = {"ROWS": 8, "COLUMNS": 32}
"""What one program of the kernels without iterations works on, in pixels."""
STRIPS = 2
"""Strips of 24 columns per program of the iterations, one warp each."""
WARPS_PER_PROCESSOR = 32
"""Warps of iterations wanted per multiprocessor: twice what is resident, for an even end."""
FEWEST_ROWS = 32
"""Rows of a piece at least: each costs 2 HALO rows more than it yields."""
FEWEST_PARTS = 64
"""Room for so many pieces is compiled in at least, so that most sizes share a kernel."""


def _kernels(device: torch.device) -> ModuleType:
    """The Triton kernels, once it is clear that they can run."""
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        raise UserError(
            "flow on a GPU needs Triton, which comes with PyTorch for CUDA: install that, or "
            "choose device 'cpu'"
        ) from error
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise UserError(
                f"flow device is {str(device)!r}, but PyTorch finds {found or 'no'} GPU: "
                "choose another, or 'cpu'"
            )
    elif device.type != "cpu" or not triton.knobs.runtime.interpret:
        raise UserError(
            f"flow device is {str(device)!r}; choose 'cuda', or 'cpu' with TRITON_INTERPRET=1 set "
            "to try the GPU's kernels under Triton's interpreter"
        )
    return importlib.import_module("actors.flow.cuda_kernels")


@dataclass(frozen=True)
class _Scale:
    """One pyramid scale: its size and how its arrays lie in memory."""

    height: int
    width: int

    @property
    def pitch(self) -> int:
        """Elements between rows, which start at the fifth: so each strip starts at a sector of
        32 bytes."""
        return (self.width + 4 + 7) // 8 * 8

    def frame_shape(self, margin: int) -> tuple[int, int]:
        return self.height + 2 * margin, (self.width + 2 * margin + 7) // 8 * 8


def _scales(height: int, width: int, settings: TVL1) -> list[_Scale]:
    """Sizes of the pyramid, finest first, as `actors.flow.tvl1` has them."""
    scales = [_Scale(height, width)]
    while len(scales) < settings.scales:
        # round() is half to even, as is OpenCV's cvRound.
        height, width = round(height * settings.scale_step), round(width * settings.scale_step)
        if min(height, width) < SMALLEST_SIDE:
            break
        scales.append(_Scale(height, width))
    return scales


def _cut(iterations: int, longest: int) -> list[int]:
    """Iterations launch by launch, none longer than `longest`."""
    return [longest] * (iterations // longest) + [iterations % longest] * (iterations % longest > 0)


def _ceiling(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _room_for(parts: int) -> int:
    """A power of two not below the number."""
    return max(FEWEST_PARTS, 1 << (parts - 1).bit_length())


class _Solver:
    """Memory for a batch of pairs of one size, and the launches that fill it.

    Args:
        settings: parameters of the flow.
        kernels: the module `actors.flow.cuda_kernels`.
        device: where to compute.
        height: rows of a frame.
        width: columns of a frame.
        pairs: pairs of the batch.
        frame_step: from one pair's first frame to the next one's: 1 in a clip, 2 between pairs.
    """

    def __init__(
        self, settings: TVL1, kernels: ModuleType, device: torch.device,
        height: int, width: int, pairs: int, frame_step: int,
    ) -> None:  # fmt: skip
        self.settings, self.kernels, self.pairs = settings, kernels, pairs
        self.frame_step = frame_step
        self.scales = _scales(height, width, settings)
        self.halo: int = kernels.HALO.value
        self.margin: int = kernels.MARGIN.value
        self.useful: int = kernels.LANES.value - 2 * self.halo
        self.processors = 1
        if device.type == "cuda":
            self.processors = torch.cuda.get_device_properties(device).multi_processor_count
        frames = frame_step * (pairs - 1) + 2
        self.images = [
            torch.empty((frames, s.height, s.width), dtype=torch.float32, device=device)
            for s in self.scales
        ]
        self.frames = [
            torch.zeros((frames, *s.frame_shape(self.margin)), dtype=torch.int64, device=device)
            for s in self.scales
        ]
        self.room = 4 * self.scales[0].height * self.scales[0].pitch
        # A row's first element is its fifth: see `_Scale.pitch`.
        self.states = torch.zeros(pairs * 2 * self.room + 4, device=device)[4:]
        self.data = torch.empty(pairs * (self.room // 4 * 3) + 4, device=device)[4:]
        parts = [self._parts(scale) for scale in self.scales]
        self.slots = [torch.zeros(pairs * n, dtype=torch.int32, device=device) for n in parts]
        self.changes = torch.empty(2 * pairs * max(parts) * self.halo, device=device)
        self.flow = torch.empty((pairs, 2, height, width), device=device)

    @staticmethod
    def bytes_per_pair(height: int, width: int, settings: TVL1, frame_step: int) -> int:
        """About what a pair takes on the device, its result in double precision included."""
        area = sum(scale.height * scale.pitch for scale in _scales(height, width, settings))
        return frame_step * 14 * area + (2 * 16 + 12 + 8 + 2 * 32) * height * (width + 12)

    def _pieces(self, scale: _Scale) -> tuple[int, int, int]:
        """Pieces beside and below each other that a pair is cut into, and a piece's rows."""
        wide = _ceiling(scale.width, self.useful * STRIPS)
        wanted = _ceiling(self.processors * WARPS_PER_PROCESSOR, self.pairs * wide * STRIPS)
        rows = _ceiling(scale.height, max(1, min(wanted, scale.height // FEWEST_ROWS)))
        return wide, _ceiling(scale.height, rows), rows

    def _parts(self, scale: _Scale) -> int:
        wide, high, _ = self._pieces(scale)
        return wide * high

    def _tiles(self, scale: _Scale) -> int:
        return _ceiling(scale.height, TILE["ROWS"]) * _ceiling(scale.width, TILE["COLUMNS"])

    def solve(self, gray: torch.Tensor) -> torch.Tensor:
        """Queues all work for a batch.

        Args:
            gray: (frames, height, width) intensities, any type, on the device.

        Returns:
            float32 (pairs, 2, height, width), a view of this solver's memory: valid until the next
            batch is solved.
        """
        count = (len(gray) - 2) // self.frame_step + 1
        self._build_pyramids(gray)
        self.states.zero_()
        self.slots[-1].zero_()
        for index in reversed(range(len(self.scales))):
            if index < len(self.scales) - 1:
                self._enlarge(index, count)
            for _ in range(self.settings.warps):
                self._linearise(index, count)
                self._converge(index, count)
        finest = self.scales[0]
        self.kernels.collect[self._tiles(finest), count](
            self.states, self.slots[0], self.flow, self.room,
            finest.height, finest.width, finest.pitch, self._parts(finest), **TILE,
        )  # fmt: skip
        return self.flow[:count]

    def _build_pyramids(self, gray: torch.Tensor) -> None:
        """Intensities and gradients of every frame at every scale."""
        frames = len(gray)
        self.images[0][:frames].copy_(gray)
        for index, scale in enumerate(self.scales):
            if index:
                larger = self.scales[index - 1]
                self.kernels.resize[self._tiles(scale), frames](
                    self.images[index - 1], self.images[index], larger.height, larger.width,
                    scale.height, scale.width, 1 / self.settings.scale_step, **TILE,
                )  # fmt: skip
            self.kernels.pack_frames[self._tiles(scale), frames](
                self.images[index], self.frames[index], scale.height, scale.width,
                scale.frame_shape(self.margin)[1], **TILE,
            )  # fmt: skip

    def _enlarge(self, index: int, count: int) -> None:
        """Brings the flow to a scale from the next coarser one."""
        small, large = self.scales[index + 1], self.scales[index]
        self.kernels.enlarge[self._tiles(large), count](
            self.states, self.slots[index + 1], self.slots[index], self.room,
            small.height, small.width, small.pitch, self._parts(small),
            large.height, large.width, large.pitch, self._parts(large),
            small.height / large.height, small.width / large.width, 1 / self.settings.scale_step,
            PARTS=_room_for(self._parts(large)), **TILE,
        )  # fmt: skip

    def _linearise(self, index: int, count: int) -> None:
        scale = self.scales[index]
        self.kernels.linearise[self._tiles(scale), count](
            self.frames[index], self.states, self.slots[index], self.data, self.room,
            scale.height, scale.width, scale.frame_shape(self.margin)[1], scale.pitch,
            self._parts(scale), self.frame_step, self.settings.cubic, **TILE,
        )  # fmt: skip

    def _converge(self, index: int, count: int) -> None:
        """Queues one warp's iterations, with the median filter before each round if set."""
        settings = self.settings
        if settings.median_filtering <= 1:
            self._iterate(index, count, settings.outer_iterations * settings.inner_iterations, 0)
            return
        scale = self.scales[index]
        wide, high, rows = self._pieces(scale)
        launches = 0
        for _ in range(settings.outer_iterations):
            self.kernels.filter_flow[wide * high, count](
                self.states, self.slots[index], self.room, launches,
                scale.height, scale.width, scale.pitch, wide, rows,
                STRIPS=STRIPS, SIDE=settings.median_filtering, num_warps=STRIPS,
            )  # fmt: skip
            launches = self._iterate(index, count, settings.inner_iterations, launches + 1)

    def _iterate(self, index: int, count: int, iterations: int, launches: int) -> int:
        """Queues iterations; `launches` and the result count since the frame was warped."""
        settings, scale = self.settings, self.scales[index]
        wide, high, rows = self._pieces(scale)
        sizes = _cut(iterations, self.halo)
        check = settings.epsilon > 0
        # What the last iterations brought is seen in one launch more, which only stops pairs.
        for place, size in enumerate([*sizes, sizes[-1]] if check else sizes):
            self.kernels.iterate[wide * high, count](
                self.states, self.slots[index], self.data, self.changes, self.room,
                launches, sizes[place - 1] if place else 0, int(place < len(sizes)),
                scale.height, scale.width, scale.pitch, wide, rows,
                settings.epsilon**2 * scale.height * scale.width,
                settings.lambda_ * settings.theta, settings.tau, settings.tau / settings.theta,
                settings.theta / 32767,
                CHECK=check, PARTS=_room_for(wide * high), STRIPS=STRIPS, ITERATIONS=size,
                num_warps=STRIPS,
            )  # fmt: skip
            launches += 1
        return launches


def _gray(frames: torch.Tensor) -> torch.Tensor:
    """Luma of uint8 (T, 3, H, W), as `actors.flow.tvl1.to_gray`."""
    red, green, blue = (frames[:, channel].to(torch.int32) for channel in range(3))
    return (9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15


def _quantised(flow: torch.Tensor, bound: float) -> torch.Tensor:
    """`actors.flow.fields.quantise` on the device, in double precision as there."""
    level = (flow.clamp(-bound, bound).to(torch.float64) + bound) * 255 / (2 * bound)
    return level.round().to(torch.uint8)


class CUDAEngine:
    """TV-L1 on a GPU.

    Args:
        settings: parameters of the flow.
        device: "cuda" or "cuda:1"; "cpu" only where TRITON_INTERPRET=1 is set, to try the kernels.
        batch: pairs computed at once; as many as fit into the device's free memory if not given.
        share: of the device's memory, at most.

    Raises:
        UserError: there is no such device, no Triton, or the batch is not from 1 to LARGEST_BATCH.
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
        self._kernels = _kernels(self.device)

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Optical flow from each frame to the next, or from each pair's first to its second.

        Args:
            frames: uint8 (T, H, W) gray or (T, 3, H, W) RGB frames of a clip, or (N, 2, H, W) gray
                pairs, at least 16 pixels wide and high.

        Returns:
            float32 (max(T - 1, 0), 2, H, W) or (N, 2, H, W): displacements in pixels, x first.

        Raises:
            ValueError: the frames' shape, type or size is not as above.
        """
        return self._run(frames, None)

    def quantised(self, frames: NDArray[np.uint8], bound: float = 20.0) -> NDArray[np.uint8]:
        """The flow in bytes, made so on the device: `actors.flow.fields.quantise` of the flow.

        Args:
            frames: as for a call.
            bound: the largest displacement kept, in pixels.

        Returns:
            uint8 (max(T - 1, 0), 2, H, W) or (N, 2, H, W).

        Raises:
            ValueError: the frames are not as for a call, or the bound is not above 0.
        """
        if not bound > 0:
            raise ValueError(f"flow bound is {bound!r} pixels; it must be above 0, such as 20")
        return self._run(frames, bound)

    def _run(self, frames: NDArray[np.uint8], bound: float | None) -> NDArray[Any]:
        frames = check_frames(frames)
        height, width = frames.shape[-2:]
        paired = frames.ndim == 4 and frames.shape[1] == 2
        count = len(frames) if paired else max(len(frames) - 1, 0)
        on_gpu = self.device.type == "cuda"
        result = torch.empty(
            (count, 2, height, width),
            dtype=torch.float32 if bound is None else torch.uint8,
            pin_memory=on_gpu and count > 0,
        )
        if count:
            with torch.cuda.device(self.device if on_gpu else -1):
                batch = self._batch(count, height, width, 1 + paired)
                solver = _Solver(
                    self.settings, self._kernels, self.device, height, width, batch, 1 + paired
                )
                for start, piece in _chunks(frames, count, batch):
                    raw = self._upload(piece)
                    flow = solver.solve(_gray(raw) if raw.ndim == 4 else raw)
                    flow = flow if bound is None else _quantised(flow, bound)
                    result[start : start + len(flow)].copy_(flow, non_blocking=True)
                if on_gpu:
                    torch.cuda.current_stream().synchronize()
        return result.numpy()

    def _upload(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """The frames on the device, or on their way there."""
        raw = torch.from_numpy(np.ascontiguousarray(frames))
        if self.device.type == "cuda":
            # From pageable memory the copy would wait for the batch before.
            raw = raw.pin_memory()
        return raw.to(self.device, non_blocking=True)

    def _batch(self, count: int, height: int, width: int, frame_step: int) -> int:
        """Pairs at once: all if they fit, else in equal parts."""
        most = self.batch or LARGEST_BATCH
        if self.batch is None and self.device.type == "cuda":
            free = free_memory(self.device, self.share)
            each = _Solver.bytes_per_pair(height, width, self.settings, frame_step)
            # The rest is for the frames as they come and whoever shares the device.
            most = max(1, min(most, int(0.6 * free) // each))
        return _ceiling(count, _ceiling(count, most))


def _chunks(
    frames: NDArray[np.uint8], count: int, batch: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The frames of each batch of pairs, with the number of its first pair."""
    for start in range(0, count, batch):
        stop = min(start + batch, count)
        if frames.ndim == 4 and frames.shape[1] == 2:
            yield start, frames[start:stop].reshape(-1, *frames.shape[-2:])
        else:
            # Neighbouring batches share a frame.
            yield start, frames[start : stop + 1]

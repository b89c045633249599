"""Device memory of a batch of pairs, and the sequence of kernel launches that computes its flow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from actors.flow.cuda import iterations, median, pieces, pyramid
from actors.flow.cuda.batches import ceiling
from actors.flow.settings import TVL1
from actors.flow.tvl1 import pyramid_scales

TILE = {"ROWS": 8, "COLUMNS": 32}
"""Pixels per program of the kernels other than the iterations and the median."""
STRIPS = 2
"""Strips of 24 columns per program of the iterations, one warp each."""
WARPS_PER_PROCESSOR = 32
"""Warps of iterations per multiprocessor: twice the resident ones, to balance the load."""
FEWEST_ROWS = 32
"""Smallest number of rows of a piece; a piece computes 2 HALO more rows than it writes."""
FEWEST_PARTS = 64
"""Smallest compiled capacity of pieces, so that most frame sizes share a kernel."""
HALO: int = pieces.HALO.value
USEFUL: int = pieces.LANES.value - 2 * HALO
"""Columns that a strip writes."""
MARGIN: int = pyramid.MARGIN.value
Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Turns a function that queues work into one that queues the same work again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Scale:
    """Size of one pyramid scale and memory layout of its arrays."""

    height: int
    width: int

    @property
    def pitch(self) -> int:
        """Elements from row to row. Rows start at the fifth element, so that each strip starts at
        a multiple of 32 bytes."""
        return (self.width + 4 + 7) // 8 * 8

    @property
    def frame_shape(self) -> tuple[int, int]:
        return self.height + 2 * MARGIN, (self.width + 2 * MARGIN + 7) // 8 * 8


def _scales(height: int, width: int, settings: TVL1) -> list[_Scale]:
    """Returns the pyramid's scales, finest first."""
    return [_Scale(scale.height, scale.width) for scale in pyramid_scales(height, width, settings)]


def record_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Records the work that a function queues on the current GPU as a CUDA graph.

    The work does not run. All its kernels must have run before, because a recording can't compile
    or load kernels.

    Returns:
        A function that queues the recorded work in the current stream by one launch.

    Raises:
        RuntimeError: the work can't be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate memory during the recording.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


def run_smallest(device: torch.device) -> None:
    """Runs a minimal kernel and waits for its end."""
    on_gpu = device.type == "cuda"
    with torch.cuda.device(device if on_gpu else -1):
        images, smaller = (torch.zeros((1, side, side), device=device) for side in (4, 2))
        pyramid.resize[1, 1](images, smaller, 4, 4, 2, 2, 2.0, **TILE)
        if on_gpu:
            torch.cuda.synchronize()


def _cut(wanted: int, longest: int) -> list[int]:
    """Splits iterations into launches of at most `longest`."""
    return [longest] * (wanted // longest) + [wanted % longest] * (wanted % longest > 0)


def _room_for(parts: int) -> int:
    """Returns a power of two not below `parts`."""
    return max(FEWEST_PARTS, 1 << (parts - 1).bit_length())


class Solver:
    """Computes the flow of batches of pairs of one frame size.

    Args:
        settings: parameters of the flow.
        device: device that computes the flow.
        height: rows of a frame.
        width: columns of a frame.
        pairs: largest number of pairs of a batch.
        frame_step: offset of a pair's first frame from the previous pair's: 1 in a clip, 2 between
            separate pairs.
        record: records the launches after the first batch, for replay in all later batches. About
            two thousand launches take longer on the host than a small batch takes on the GPU.
    """

    def __init__(
        self, settings: TVL1, device: torch.device, height: int, width: int, pairs: int,
        frame_step: int, record: Record | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.pairs = settings, pairs
        self.frame_step = frame_step
        self._record = record
        self._replay: Callable[[], None] | None = None
        self._compiled = False
        self.primal_dual = settings.solver == "primal_dual"
        # Largest value of a dual variable, divided by the largest integer of its storage.
        self.grain = (1.0 if self.primal_dual else settings.theta) / 32767
        self.scales = _scales(height, width, settings)
        self.processors = 1
        if device.type == "cuda":
            self.processors = torch.cuda.get_device_properties(device).multi_processor_count
        frames = frame_step * (pairs - 1) + 2
        self.images = [
            torch.empty((frames, s.height, s.width), dtype=torch.float32, device=device)
            for s in self.scales
        ]
        self.frames = [
            torch.zeros((frames, *s.frame_shape), dtype=torch.int64, device=device)
            for s in self.scales
        ]
        self.room = 4 * self.scales[0].height * self.scales[0].pitch
        # Rows start at the fifth element: see `_Scale.pitch`.
        self.states = torch.zeros(pairs * 2 * self.room + 4, device=device)[4:]
        self.data = torch.empty(pairs * (self.room // 4 * 3) + 4, device=device)[4:]
        parts = [self._parts(scale) for scale in self.scales]
        self.slots = [torch.zeros(pairs * n, dtype=torch.int32, device=device) for n in parts]
        self.changes = torch.empty(2 * pairs * max(parts) * HALO, device=device)
        self.flow = torch.empty((pairs, 2, height, width), device=device)

    @staticmethod
    def bytes_per_pair(height: int, width: int, settings: TVL1, frame_step: int) -> int:
        """Estimates a pair's memory in bytes, with its result in double precision."""
        area = sum(scale.height * scale.pitch for scale in _scales(height, width, settings))
        return frame_step * 14 * area + (2 * 16 + 12 + 8 + 2 * 32) * height * (width + 12)

    def _pieces(self, scale: _Scale) -> tuple[int, int, int]:
        """Number of pieces across and down a frame, and rows of a piece."""
        wide = ceiling(scale.width, USEFUL * STRIPS)
        wanted = ceiling(self.processors * WARPS_PER_PROCESSOR, self.pairs * wide * STRIPS)
        rows = ceiling(scale.height, max(1, min(wanted, scale.height // FEWEST_ROWS)))
        return wide, ceiling(scale.height, rows), rows

    def _parts(self, scale: _Scale) -> int:
        wide, high, _ = self._pieces(scale)
        return wide * high

    def _tiles(self, scale: _Scale) -> int:
        return ceiling(scale.height, TILE["ROWS"]) * ceiling(scale.width, TILE["COLUMNS"])

    def solve(self, gray: torch.Tensor) -> torch.Tensor:
        """Queues all work for a batch.

        Args:
            gray: (frames, height, width) intensities on the device, any dtype.

        Returns:
            float32 (pairs, 2, height, width), displacements in pixels: a view of this solver's
            memory, valid until the next batch.
        """
        self.images[0][: len(gray)].copy_(gray)
        if self._replay is None and self._record is not None and self._compiled:
            self._record_launches(self._record)
        if self._replay is None:
            self._launch(len(gray))
            self._compiled = True
        else:
            # The recording covers a full batch. Pairs of equal frames converge at once.
            self.images[0][len(gray) :] = self.images[0][len(gray) - 1]
            self._replay()
        return self.flow[: self._pairs_of(len(gray))]

    def _pairs_of(self, frames: int) -> int:
        return (frames - 2) // self.frame_step + 1

    def _record_launches(self, record: Record) -> None:
        """Records the launches of a full batch; on failure they are queued one by one."""
        try:
            self._replay = record(partial(self._launch, len(self.images[0])))
        except RuntimeError as error:
            self._record = None
            log.warning("the flow's launches can't be recorded, which is slower: %s", error)

    def _launch(self, frames: int) -> None:
        """Queues all work on the first `frames` frames in `images[0]`."""
        count = self._pairs_of(frames)
        self._build_pyramids(frames)
        self.states.zero_()
        self.slots[-1].zero_()
        for index in reversed(range(len(self.scales))):
            if index < len(self.scales) - 1:
                self._enlarge(index, count)
            for _ in range(self.settings.warps):
                self._linearize(index, count)
                self._converge(index, count)
        finest = self.scales[0]
        pyramid.collect[self._tiles(finest), count](
            self.states, self.slots[0], self.flow, self.room,
            finest.height, finest.width, finest.pitch, self._parts(finest), **TILE,
        )  # fmt: skip

    def _build_pyramids(self, frames: int) -> None:
        """Queues intensities and gradients at every scale, from the finest scale's intensities."""
        for index, scale in enumerate(self.scales):
            if index:
                larger = self.scales[index - 1]
                pyramid.resize[self._tiles(scale), frames](
                    self.images[index - 1], self.images[index], larger.height, larger.width,
                    scale.height, scale.width, 1 / self.settings.scale_step, **TILE,
                )  # fmt: skip
            pyramid.pack_frames[self._tiles(scale), frames](
                self.images[index], self.frames[index], scale.height, scale.width,
                scale.frame_shape[1], **TILE,
            )  # fmt: skip

    def _enlarge(self, index: int, count: int) -> None:
        """Queues the resizing of the solution from the next coarser scale."""
        small, large = self.scales[index + 1], self.scales[index]
        pyramid.enlarge[self._tiles(large), count](
            self.states, self.slots[index + 1], self.slots[index], self.room,
            small.height, small.width, small.pitch, self._parts(small),
            large.height, large.width, large.pitch, self._parts(large),
            small.height / large.height, small.width / large.width, 1 / self.settings.scale_step,
            self.grain, DUALS=self.primal_dual, PARTS=_room_for(self._parts(large)), **TILE,
        )  # fmt: skip

    def _linearize(self, index: int, count: int) -> None:
        scale = self.scales[index]
        pyramid.linearize[self._tiles(scale), count](
            self.frames[index], self.states, self.slots[index], self.data, self.room,
            scale.height, scale.width, scale.frame_shape[1], scale.pitch,
            self._parts(scale), self.frame_step, self.settings.cubic, **TILE,
        )  # fmt: skip

    def _converge(self, index: int, count: int) -> None:
        """Queues one warp's iterations, and the median filter before each round if it is set."""
        settings = self.settings
        if settings.median_filtering <= 1:
            self._iterate(index, count, settings.outer_iterations * settings.inner_iterations, 0)
            return
        scale = self.scales[index]
        wide, high, rows = self._pieces(scale)
        launches = 0
        for _ in range(settings.outer_iterations):
            median.filter_flow[wide * high, count](
                self.states, self.slots[index], self.room, launches,
                scale.height, scale.width, scale.pitch, wide, rows,
                STRIPS=STRIPS, SIDE=settings.median_filtering, num_warps=STRIPS,
            )  # fmt: skip
            launches = self._iterate(index, count, settings.inner_iterations, launches + 1)

    def _iterate(self, index: int, count: int, wanted: int, launches: int) -> int:
        """Queues iterations; `launches` and the result are launches since the frame was warped."""
        settings, scale = self.settings, self.scales[index]
        tau, theta = settings.tau, settings.theta
        strength, rate = (tau, tau / (tau + theta)) if self.primal_dual else (theta, tau / theta)
        wide, high, rows = self._pieces(scale)
        sizes = _cut(wanted, HALO)
        check = settings.epsilon > 0
        # One more launch evaluates the changes of the last iterations and only stops pairs.
        for place, size in enumerate([*sizes, sizes[-1]] if check else sizes):
            iterations.iterate[wide * high, count](
                self.states, self.slots[index], self.data, self.changes, self.room,
                launches, sizes[place - 1] if place else 0, int(place < len(sizes)),
                scale.height, scale.width, scale.pitch, wide, rows,
                settings.epsilon**2 * scale.height * scale.width,
                settings.lambda_ * strength, tau, rate, settings.sigma, self.grain,
                CHECK=check, PRIMAL_DUAL=self.primal_dual, PARTS=_room_for(wide * high),
                STRIPS=STRIPS, ITERATIONS=size,
                num_warps=STRIPS,
            )  # fmt: skip
            launches += 1
        return launches

"""What `actors.flow.cuda` needs memory for, and the order of its kernels' launches."""

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
"""What one program of the kernels without iterations works on, in pixels."""
STRIPS = 2
"""Strips of 24 columns per program of the iterations, one warp each."""
WARPS_PER_PROCESSOR = 32
"""Warps of iterations wanted per multiprocessor: twice what is resident, for an even end."""
FEWEST_ROWS = 32
"""Rows of a piece at least: each costs 2 HALO rows more than it yields."""
FEWEST_PARTS = 64
"""Room for so many pieces is compiled in at least, so that most sizes share a kernel."""
HALO: int = pieces.HALO.value
USEFUL: int = pieces.LANES.value - 2 * HALO
"""Columns of a strip that are its own."""
MARGIN: int = pyramid.MARGIN.value
Record = Callable[[Callable[[], None]], Callable[[], None]]
"""From what queues work to what queues the same again."""

log = logging.getLogger(__name__)


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

    @property
    def frame_shape(self) -> tuple[int, int]:
        return self.height + 2 * MARGIN, (self.width + 2 * MARGIN + 7) // 8 * 8


def _scales(height: int, width: int, settings: TVL1) -> list[_Scale]:
    """The pyramid's scales, finest first."""
    return [_Scale(scale.height, scale.width) for scale in pyramid_scales(height, width, settings)]


def record_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Records what the work queues on the present GPU as a CUDA graph, without doing it.

    All kernels must have run once before, for they can't be compiled or loaded meanwhile.

    Returns:
        What does it all again, in the current stream, by one launch.

    Raises:
        RuntimeError: it can't be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate memory meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


def run_smallest(device: torch.device) -> None:
    """Runs a kernel that does next to nothing, and waits for its end."""
    on_gpu = device.type == "cuda"
    with torch.cuda.device(device if on_gpu else -1):
        images, smaller = (torch.zeros((1, side, side), device=device) for side in (4, 2))
        pyramid.resize[1, 1](images, smaller, 4, 4, 2, 2, 2.0, **TILE)
        if on_gpu:
            torch.cuda.synchronize()


def _cut(wanted: int, longest: int) -> list[int]:
    """Iterations launch by launch, none longer than `longest`."""
    return [longest] * (wanted // longest) + [wanted % longest] * (wanted % longest > 0)


def _room_for(parts: int) -> int:
    """A power of two not below the number."""
    return max(FEWEST_PARTS, 1 << (parts - 1).bit_length())


class Solver:
    """Memory for a batch of pairs of one size, and the launches that fill it.

    Args:
        settings: parameters of the flow.
        device: where to compute.
        height: rows of a frame.
        width: columns of a frame.
        pairs: pairs of the batch.
        frame_step: from one pair's first frame to the next one's: 1 in a clip, 2 between pairs.
        record: records the launches of a batch when the first one has been solved; every later
            batch replays them. Some two thousand launches cost the host more than a small batch
            costs the GPU.
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
        # The largest a dual variable can be, by the integers that it is stored in.
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
        # A row's first element is its fifth: see `_Scale.pitch`.
        self.states = torch.zeros(pairs * 2 * self.room + 4, device=device)[4:]
        self.data = torch.empty(pairs * (self.room // 4 * 3) + 4, device=device)[4:]
        parts = [self._parts(scale) for scale in self.scales]
        self.slots = [torch.zeros(pairs * n, dtype=torch.int32, device=device) for n in parts]
        self.changes = torch.empty(2 * pairs * max(parts) * HALO, device=device)
        self.flow = torch.empty((pairs, 2, height, width), device=device)

    @staticmethod
    def bytes_per_pair(height: int, width: int, settings: TVL1, frame_step: int) -> int:
        """About what a pair takes on the device, its result in double precision included."""
        area = sum(scale.height * scale.pitch for scale in _scales(height, width, settings))
        return frame_step * 14 * area + (2 * 16 + 12 + 8 + 2 * 32) * height * (width + 12)

    def _pieces(self, scale: _Scale) -> tuple[int, int, int]:
        """Pieces beside and below each other that a pair is cut into, and a piece's rows."""
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
            gray: (frames, height, width) intensities, any type, on the device.

        Returns:
            float32 (pairs, 2, height, width), a view of this solver's memory: valid until the next
            batch is solved.
        """
        self.images[0][: len(gray)].copy_(gray)
        if self._replay is None and self._record is not None and self._compiled:
            self._record_launches(self._record)
        if self._replay is None:
            self._launch(len(gray))
            self._compiled = True
        else:
            # The recording is of a whole batch. Equal frames converge at once.
            self.images[0][len(gray) :] = self.images[0][len(gray) - 1]
            self._replay()
        return self.flow[: self._pairs_of(len(gray))]

    def _pairs_of(self, frames: int) -> int:
        return (frames - 2) // self.frame_step + 1

    def _record_launches(self, record: Record) -> None:
        """Records a whole batch's launches; where that can't be done they are made one by one."""
        try:
            self._replay = record(partial(self._launch, len(self.images[0])))
        except RuntimeError as error:
            self._record = None
            log.warning("flow's launches can't be recorded, which is slower: %s", error)

    def _launch(self, frames: int) -> None:
        """Queues all work on so many frames, which are in `images[0]`."""
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
        """Intensities and gradients of the first frames at every scale, from the finest one's."""
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
        """Brings the flow to a scale from the next coarser one, and the duals if they go on."""
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
        """Queues one warp's iterations, with the median filter before each round if set."""
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
        """Queues iterations; `launches` and the result count since the frame was warped."""
        settings, scale = self.settings, self.scales[index]
        tau, theta = settings.tau, settings.theta
        strength, rate = (tau, tau / (tau + theta)) if self.primal_dual else (theta, tau / theta)
        wide, high, rows = self._pieces(scale)
        sizes = _cut(wanted, HALO)
        check = settings.epsilon > 0
        # What the last iterations brought is seen in one launch more, which only stops pairs.
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

"""TV-L1 optical flow on CPU cores, coarse to fine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.flow.loops.planes import LANES, MARGIN, STATE, TERMS
from actors.flow.settings import SMALLEST_SIDE, TVL1

RUN = 16
"""Largest number of consecutive pairs that a thread takes at once. The pyramid of the frame between
two runs of different threads is built twice."""


def to_gray(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of RGB frames, rounded as by OpenCV's ``COLOR_RGB2GRAY`` (BT.601, 15-bit weights).

    Args:
        frames: uint8 (T, 3, H, W).

    Returns:
        uint8 (T, H, W).
    """
    red, green, blue = (frames[:, channel].astype(np.uint32) for channel in range(3))
    return ((9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15).astype(np.uint8)


def flow(
    frames: NDArray[np.uint8], settings: TVL1 | None = None, *, threads: int = 1
) -> NDArray[np.float32]:
    """Computes the flow from each frame to the next, or from the first to the second of each pair.

    With the solver `alternating` it agrees with OpenCV's ``DualTVL1OpticalFlow`` of the same
    parameters.

    Args:
        frames: uint8; (T, H, W) gray or (T, 3, H, W) RGB frames of a clip, or (N, 2, H, W) pairs
            of gray frames; at least 16 pixels wide and high, any strides.
        settings: parameters; None: OpenCV's without the median filter.
        threads: number of threads. The result does not depend on it.

    Returns:
        float32 (max(T - 1, 0), 2, H, W) or (N, 2, H, W): displacements in pixels, x first.

    Raises:
        TypeError: settings is not a `TVL1`, or frames is not an array.
        ValueError: the frames have another shape or dtype or are too small, or threads is below 1.
    """
    settings = TVL1() if settings is None else settings
    if not isinstance(settings, TVL1):
        raise TypeError(f"settings are {settings!r}; give a TVL1, such as SCHEDULES['fast']")
    frames = check_frames(frames)
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads is {threads!r}; give a whole number, at least 1")
    if frames.ndim == 4 and frames.shape[1] == 3:
        frames = to_gray(frames)
    pairs = len(frames) if frames.ndim == 4 else max(len(frames) - 1, 0)
    fields = np.empty((pairs, 2, *frames.shape[-2:]), np.float32)
    runs = _runs(pairs, threads)
    solve = partial(_solve_runs, frames, settings, runs, fields)
    helpers = min(threads, pairs) - 1
    if helpers < 1:
        solve()
        return fields
    # The calling thread works too: the system may keep new threads on one core for milliseconds.
    with ThreadPoolExecutor(helpers) as pool:
        work = [pool.submit(solve) for _ in range(helpers)]
        solve()
        for done in work:
            done.result()
    return fields


def check_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the frames after checking them; see `flow`.

    Raises:
        TypeError: they are not an array.
        ValueError: their shape or dtype is another one, or they are too small.
    """
    if not isinstance(frames, np.ndarray):
        raise TypeError(f"frames are a {type(frames).__name__}; give a NumPy array of uint8")
    if frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype}; give uint8 intensities of 0..255")
    if frames.ndim != 3 and not (frames.ndim == 4 and frames.shape[1] in (2, 3)):
        raise ValueError(
            f"frames have shape {frames.shape}; give (T, H, W) gray, (T, 3, H, W) RGB, "
            "or (N, 2, H, W) pairs of gray"
        )
    height, width = frames.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"frames are {width}x{height} pixels; flow needs at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE}: resize them first"
        )
    return frames


def _runs(pairs: int, threads: int) -> Iterator[range]:
    """Yields runs of consecutive pairs, shorter ones last, so that all threads end together."""
    runs, start = [], 0
    while start < pairs:
        size = max(1, min(RUN, (pairs - start) // (4 * threads)))
        runs.append(range(start, start + size))
        start += size
    return iter(runs)


def _solve_runs(
    frames: NDArray[np.uint8],
    settings: TVL1,
    runs: Iterator[range],
    fields: NDArray[np.float32],
) -> None:
    """Work of one thread: takes runs from the shared iterator until it is exhausted.

    An error or an interruption exhausts the iterator, which ends the other threads too.
    """
    height, width = frames.shape[-2:]
    solver = PyramidSolver(height, width, settings)
    shown = -1  # index of the clip's frame that the solver holds
    try:
        for run in runs:
            for pair in run:
                if frames.ndim == 4:
                    solver.show(frames[pair, 0])
                    solver.show(frames[pair, 1])
                else:
                    if shown != pair:
                        solver.show(frames[pair])
                    shown = pair + 1
                    solver.show(frames[shown])
                solver.solve(fields[pair])
    except BaseException:
        for _ in runs:
            pass
        raise


class Scale(NamedTuple):
    """Height and width of a pyramid scale, and stride of its planes (see `loops.planes`)."""

    height: int
    width: int
    stride: int

    def plane(self) -> tuple[int, int, int, int]:
        """Height, width, stride and index of the first pixel, for `loops.pyramid.enlarge`."""
        return self.height, self.width, self.stride, self.stride


class Pyramid:
    """A frame at all scales, finest first.

    Attributes:
        whole: float32 (pixels of all scales,).
        images: flat views of `whole`, one per scale.
        table: int64 (scales, 3): height, width and start index of each scale.
    """

    def __init__(self, scales: list[Scale]) -> None:
        sizes = [scale.height * scale.width for scale in scales]
        starts = [sum(sizes[:n]) for n in range(len(sizes))]
        self.whole = np.empty(sum(sizes), np.float32)
        self.images = [self.whole[a : a + n] for a, n in zip(starts, sizes, strict=True)]
        shapes = [(scale.height, scale.width) for scale in scales]
        self.table = np.array([(*s, a) for s, a in zip(shapes, starts, strict=True)], np.int64)


def pyramid_scales(height: int, width: int, settings: TVL1) -> list[Scale]:
    """Returns the scales of a pyramid, finest first."""
    scales = [Scale(height, width, (width // LANES + 1) * LANES)]
    while len(scales) < settings.scales:
        # round() rounds half to even, as OpenCV's cvRound does.
        height, width = (round(side * settings.scale_step) for side in (height, width))
        if min(height, width) < SMALLEST_SIDE:
            break
        scales.append(Scale(height, width, (width // LANES + 1) * LANES))
    return scales


def _aligned(rows: int, size: int) -> NDArray[np.float32]:
    """Empty float32 (rows, size), aligned to a cache line; size is a multiple of 16."""
    line = 64
    raw = np.empty(4 * rows * size + line, np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + 4 * rows * size].view(np.float32).reshape(rows, size)


class PyramidSolver:
    """Computes the flow between the last two frames given to `show`. Not thread-safe.

    Its memory, about 100 bytes per pixel, is allocated once and used for all pairs: new memory
    costs a page fault per 4 KiB.
    """

    def __init__(self, height: int, width: int, settings: TVL1) -> None:
        # Importing Numba takes a while, and readers of flow do not need it.
        from actors.flow.loops import pyramid, scale, warp
        from actors.flow.networks import median_network

        self._build, self._enlarge_state = pyramid.build, pyramid.enlarge
        self._pack, self._solve_scale = warp.pack, scale.solve_scale
        self._settings = settings
        self._scales = pyramid_scales(height, width, settings)
        self._pyramids = Pyramid(self._scales), Pyramid(self._scales)
        stride = self._scales[0].stride
        size = (height + 2) * stride
        # Flow and duals of the current scale and of the previous one; terms of the data term.
        self._state, self._other = (_aligned(STATE, size) for _ in range(2))
        self._terms = _aligned(TERMS, size)
        margin = 2 * MARGIN
        self._packed = _aligned(4, (height + margin) * (width + margin)).reshape(-1)
        self._network = median_network(settings.median_filtering)

    def show(self, frame: NDArray[np.uint8]) -> None:
        """Sets the second frame, uint8 (H, W); the previous second frame becomes the first."""
        self._pyramids = self._pyramids[::-1]
        pyramid = self._pyramids[1]
        np.copyto(pyramid.images[0].reshape(frame.shape), frame)
        self._build(pyramid.whole, pyramid.table, 1 / self._settings.scale_step)

    def solve(self, field: NDArray[np.float32]) -> None:
        """Writes the flow from the first frame to the second: (2, H, W) in pixels, x first."""
        coarsest = self._scales[-1]
        self._state[:, : (coarsest.height + 2) * coarsest.stride] = 0
        for scale in reversed(range(len(self._scales))):
            if scale < len(self._scales) - 1:
                self._enlarge(self._scales[scale + 1], self._scales[scale])
            self._refine(scale)
        height, width, stride = self._scales[0]
        planes = self._state[:2, stride : (height + 1) * stride]
        np.copyto(field, planes.reshape(2, height, stride)[:, :, :width])

    def _enlarge(self, coarse: Scale, fine: Scale) -> None:
        """Resizes the solution to the next finer scale, with the duals in `primal_dual`."""
        settings = self._settings
        self._enlarge_state(
            self._state,
            coarse.plane(),
            self._other,
            fine.plane(),
            1 / settings.scale_step,
            settings.solver == "primal_dual",
        )
        self._state, self._other = self._other, self._state

    def _refine(self, scale: int) -> None:
        """Runs the warps and iterations of one scale."""
        settings, (height, width, stride) = self._settings, self._scales[scale]
        primal_dual = settings.solver == "primal_dual"
        strength = settings.tau if primal_dual else settings.theta
        self._pack(self._pyramids[1].images[scale], self._packed, height, width)
        self._solve_scale(
            self._pyramids[0].images[scale],
            self._packed,
            self._state,
            self._terms,
            height,
            width,
            stride,
            settings.warps,
            settings.outer_iterations,
            settings.inner_iterations,
            settings.median_filtering,
            self._network,
            settings.lambda_ * strength,
            settings.tau,
            settings.tau / (settings.theta + (settings.tau if primal_dual else 0.0)),
            settings.sigma if primal_dual else 0.0,
            settings.epsilon**2 * height * width,
            settings.cubic,
        )

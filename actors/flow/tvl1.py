"""TV-L1 optical flow between the frames of a clip, coarse to fine, on CPU cores."""

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
"""Pairs at most that a thread takes at once; where the next run is another thread's, the frame
between the two is scaled twice."""


def to_gray(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of RGB frames, rounded as OpenCV's ``COLOR_RGB2GRAY`` does (BT.601, 15-bit weights).

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
    """Optical flow from each frame to the next, or from the first to the second of each pair.

    Agrees with OpenCV's ``DualTVL1OpticalFlow`` of the same parameters, where the solver is
    `alternating`.

    Args:
        frames: uint8 (T, H, W) gray or (T, 3, H, W) RGB for a clip, (N, 2, H, W) for pairs of gray
            frames; at least 16 pixels wide and high, of any strides.
        settings: parameters; OpenCV's, without the median filter, if not given.
        threads: how many threads share the pairs out among them. The result is the same.

    Returns:
        float32 (max(T - 1, 0), 2, H, W) or (N, 2, H, W): displacements in pixels, x first.

    Raises:
        TypeError: settings are no `TVL1`, or frames no array.
        ValueError: the frames' shape, type or size is not as above, or threads is below 1.
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
    # The caller works too: threads that are all new may be left on one core for some milliseconds.
    with ThreadPoolExecutor(helpers) as pool:
        work = [pool.submit(solve) for _ in range(helpers)]
        solve()
        for done in work:
            done.result()
    return fields


def check_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames, once their type and shape are as `flow` wants them.

    Raises:
        TypeError: they are no array.
        ValueError: they are not.
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
    """Runs of consecutive pairs, shorter towards the end, so that all threads end together."""
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
    """One thread's share: runs from the common iterator until there are no more.

    After an error, or an interruption, there are no more for the other threads either.
    """
    height, width = frames.shape[-2:]
    solver = Solver(height, width, settings)
    shown = -1  # the last frame of a clip that the solver has seen
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
    """Size of a pyramid scale, and from row to row of its planes (see `loops.planes`)."""

    height: int
    width: int
    stride: int

    def plane(self) -> tuple[int, int, int, int]:
        """Where a variable lies in its plane, for `loops.pyramid.enlarge`."""
        return self.height, self.width, self.stride, self.stride


class Pyramid:
    """A frame at all scales, finest first, as flat float32 rows.

    `images` are views of `whole`; `table` tells the height, width and beginning of each.
    """

    def __init__(self, scales: list[Scale]) -> None:
        sizes = [scale.height * scale.width for scale in scales]
        starts = [sum(sizes[:n]) for n in range(len(sizes))]
        self.whole = np.empty(sum(sizes), np.float32)
        self.images = [self.whole[a : a + n] for a, n in zip(starts, sizes, strict=True)]
        shapes = [(scale.height, scale.width) for scale in scales]
        self.table = np.array([(*s, a) for s, a in zip(shapes, starts, strict=True)], np.int64)


def pyramid_scales(height: int, width: int, settings: TVL1) -> list[Scale]:
    """The sizes of a pyramid's scales, finest first."""
    scales = [Scale(height, width, (width // LANES + 1) * LANES)]
    while len(scales) < settings.scales:
        # round() is half to even, as is OpenCV's cvRound.
        height, width = (round(side * settings.scale_step) for side in (height, width))
        if min(height, width) < SMALLEST_SIDE:
            break
        scales.append(Scale(height, width, (width // LANES + 1) * LANES))
    return scales


def _aligned(rows: int, size: int) -> NDArray[np.float32]:
    """Room for (rows, size), the first at the start of a cache line; size in whole lines."""
    line = 64
    raw = np.empty(4 * rows * size + line, np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + 4 * rows * size].view(np.float32).reshape(rows, size)


class Solver:
    """Finds flow between the last two frames it was shown; for one thread.

    Its memory, some 100 bytes per pixel, is set aside once and serves all pairs: fresh memory
    costs a page fault per 4 KiB.
    """

    def __init__(self, height: int, width: int, settings: TVL1) -> None:
        # Numba takes a while to import, which those who only read flow needn't wait for.
        from actors.flow.loops import pyramid, scale, warp
        from actors.flow.networks import median_network

        self._build, self._enlarge_state = pyramid.build, pyramid.enlarge
        self._pack, self._solve_scale = warp.pack, scale.solve_scale
        self._settings = settings
        self._scales = pyramid_scales(height, width, settings)
        self._pyramids = Pyramid(self._scales), Pyramid(self._scales)
        stride = self._scales[0].stride
        size = (height + 2) * stride
        # The flow and its duals, of the present scale and the one before; what they are fitted to.
        self._state, self._other = (_aligned(STATE, size) for _ in range(2))
        self._terms = _aligned(TERMS, size)
        margin = 2 * MARGIN
        self._packed = _aligned(4, (height + margin) * (width + margin)).reshape(-1)
        self._network = median_network(settings.median_filtering)

    def show(self, frame: NDArray[np.uint8]) -> None:
        """Makes uint8 (H, W) the second frame, and the second the first."""
        self._pyramids = self._pyramids[::-1]
        pyramid = self._pyramids[1]
        np.copyto(pyramid.images[0].reshape(frame.shape), frame)
        self._build(pyramid.whole, pyramid.table, 1 / self._settings.scale_step)

    def solve(self, field: NDArray[np.float32]) -> None:
        """Writes the flow (2, H, W) in pixels from the first frame to the second, x first."""
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
        """Brings the solution to the next finer scale, the duals too if they are of use there."""
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
        """Warps and iterates at one scale."""
        settings, (height, width, stride) = self._settings, self._scales[scale]
        warm = settings.solver == "primal_dual"
        strength = settings.tau if warm else settings.theta
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
            settings.tau / (settings.theta + (settings.tau if warm else 0.0)),
            settings.sigma if warm else 0.0,
            settings.epsilon**2 * height * width,
            settings.cubic,
        )

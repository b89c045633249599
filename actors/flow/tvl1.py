"""TV-L1 optical flow between the frames of a clip, coarse to fine, on one CPU core."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.flow import kernels
from actors.flow.settings import SMALLEST_SIDE, TVL1

Pyramid = list[NDArray[np.float32]]


def to_gray(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of RGB frames, rounded as OpenCV's ``COLOR_RGB2GRAY`` does (BT.601, 15-bit weights).

    Args:
        frames: uint8 (T, 3, H, W).

    Returns:
        uint8 (T, H, W).
    """
    red, green, blue = (frames[:, channel].astype(np.uint32) for channel in range(3))
    return ((9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15).astype(np.uint8)


def flow(frames: NDArray[np.uint8], settings: TVL1 | None = None) -> NDArray[np.float32]:
    """Optical flow from each frame to the next.

    Agrees with OpenCV's ``DualTVL1OpticalFlow`` of the same parameters.

    Args:
        frames: uint8 (T, H, W) gray or (T, 3, H, W) RGB, at least 16 pixels wide and high.
        settings: parameters; OpenCV's, without the median filter, if not given.

    Returns:
        float32 (max(T - 1, 0), 2, H, W): displacements in pixels, x first.

    Raises:
        ValueError: the frames' shape, type or size is not as above.
    """
    settings = settings or TVL1()
    frames = _checked(frames)
    gray = to_gray(frames) if frames.ndim == 4 else frames
    fields = np.zeros((max(len(gray) - 1, 0), 2, *gray.shape[1:]), np.float32)
    previous: Pyramid = []
    for index, frame in enumerate(gray):
        current = _pyramid(frame, settings)
        if index:
            fields[index - 1] = _pair(previous, current, settings)
        previous = current
    return fields


def _checked(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames, once their type and shape are as `flow` wants them."""
    if frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype}; give uint8 intensities of 0..255")
    if frames.ndim != 3 and not (frames.ndim == 4 and frames.shape[1] == 3):
        raise ValueError(
            f"frames have shape {frames.shape}; give (T, H, W) gray or (T, 3, H, W) RGB"
        )
    height, width = frames.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"frames are {width}x{height} pixels; TV-L1 needs at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE}: resize them first"
        )
    return frames


def _pyramid(frame: NDArray[np.uint8], settings: TVL1) -> Pyramid:
    """The frame as float32 at each scale, finest first."""
    scales = [np.ascontiguousarray(frame, dtype=np.float32)]
    step = 1 / settings.scale_step
    while len(scales) < settings.scales:
        # round() is half to even, as is OpenCV's cvRound.
        height, width = (round(side * settings.scale_step) for side in scales[-1].shape)
        if min(height, width) < SMALLEST_SIDE:
            break
        scales.append(kernels.resize(scales[-1], height, width, step, step))
    return scales


def _pair(first: Pyramid, second: Pyramid, settings: TVL1) -> NDArray[np.float32]:
    """Flow (2, H, W) between two frames, from the coarsest scale to the finest."""
    field = np.zeros((2, *first[-1].shape), np.float32)
    for scale in reversed(range(len(first))):
        height, width = first[scale].shape
        if scale < len(first) - 1:
            field = _enlarged(field, height, width, 1 / settings.scale_step)
        kernels.solve_scale(
            first[scale],
            second[scale],
            field,
            settings.warps,
            settings.outer_iterations,
            settings.inner_iterations,
            settings.median_filtering,
            np.float32(settings.lambda_ * settings.theta),
            np.float32(settings.theta),
            np.float32(settings.tau / settings.theta),
            settings.epsilon**2 * height * width,
        )
    return field


def _enlarged(
    field: NDArray[np.float32], height: int, width: int, zoom: float
) -> NDArray[np.float32]:
    """The flow at the next finer scale: more pixels, and displacements longer by the zoom."""
    step_y, step_x = field.shape[1] / height, field.shape[2] / width
    larger = [kernels.resize(side, height, width, step_y, step_x) for side in field]
    return np.stack(larger) * np.float32(zoom)

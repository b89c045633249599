"""Optical flow as colors: hue is the direction, saturation the length of the motion.

The color coding of the Middlebury benchmark (Baker et al., "A Database and Evaluation Methodology
for Optical Flow", IJCV 2011): motion to the right is red, downward yellow, to the left cyan,
upward violet-blue, and no motion is white.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNKNOWN_PX = 1e9
"""Middlebury's files mark unknown displacements by larger values in x or y; they are black."""

# Number of hues between neighboring corners of the color cube, chosen by perceptual distance.
_ARCS = (
    ("r", "g", 15),
    ("g", "r", 6),
    ("g", "b", 4),
    ("b", "g", 11),
    ("b", "r", 13),
    ("r", "b", 6),
)


def color_wheel() -> NDArray[np.float64]:
    """Returns the 55 hues of the wheel, float64 (55, 3) RGB in 0..1, from red by yellow to red."""
    # Along an arc the second channel rises or falls while the first one is full.
    channels = {"r": 0, "g": 1, "b": 2}
    wheel = []
    for arc, (first, second, steps) in enumerate(_ARCS):
        rise = np.floor(255 * np.arange(steps) / steps) / 255
        hues = np.zeros((steps, 3))
        hues[:, channels[first]] = 1
        hues[:, channels[second]] = rise if arc % 2 == 0 else 1 - rise
        wheel.append(hues)
    return np.concatenate(wheel)


def flow_to_color(flow: NDArray[np.floating], *, max_px: float | None = None) -> NDArray[np.uint8]:
    """Colors a flow field.

    Args:
        flow: (2, H, W) in pixels, x (rightward) first, then y (downward).
        max_px: length in pixels that has full saturation; longer vectors are darker. None: the
            length of the field's longest vector.

    Returns:
        (H, W, 3) uint8 RGB. NaN, infinite and Middlebury's "unknown" vectors are black.

    Raises:
        ValueError: the shape is not (2, H, W), or ``max_px`` is not positive.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"flow has shape {flow.shape}; give (2, H, W), x first")
    if max_px is not None and not max_px > 0:
        raise ValueError(f"max_px is {max_px}; it must be above 0")
    known = np.isfinite(flow).all(axis=0) & (np.abs(flow) <= UNKNOWN_PX).all(axis=0)
    x, y = np.where(known, flow, 0).astype(np.float64)
    length = np.hypot(x, y)
    longest = max_px if max_px is not None else float(length.max(initial=0))
    radius = (length / (longest or 1))[..., None]

    wheel = color_wheel()
    # arctan2(-y, -x) is in [-pi, pi]; its end pi is a motion to the right, which is red.
    position = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(wheel) - 1)
    below = np.floor(position).astype(int)
    share = (position - below)[..., None]
    hue = (1 - share) * wheel[below] + share * wheel[(below + 1) % len(wheel)]
    # Inside the circle of full saturation blend with white; outside it darken to 75 %.
    color = np.where(radius <= 1, 1 - radius * (1 - hue), 0.75 * hue)
    color[~known] = 0
    return np.floor(255 * color).astype(np.uint8)

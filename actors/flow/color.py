"""Optical flow as colors: hue is the direction, saturation the length of the motion.

The coding of the Middlebury benchmark (Baker et al., "A Database and Evaluation Methodology for
Optical Flow", IJCV 2011), so that fields look as they do in the literature: rightwards is red,
downwards yellow, leftwards cyan, upwards violet-blue, and what stands still is white.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNKNOWN_PX = 1e9
"""Longer than this in x or y means "unknown" in Middlebury's files; drawn black."""

# Hues between the six corners of the color cube, as many as the eye tells apart there.
_ARCS = (
    ("r", "g", 15),
    ("g", "r", 6),
    ("g", "b", 4),
    ("b", "g", 11),
    ("b", "r", 13),
    ("r", "b", 6),
)


def color_wheel() -> NDArray[np.float64]:
    """Returns the 55 hues of the wheel, (55, 3) RGB in 0..1, starting at red, towards yellow."""
    # Each arc either raises the second channel beside the first, or lets it fall.
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
        flow: (2, H, W) in pixels, x (rightwards) first, y downwards.
        max_px: the length drawn in full color; longer ones are darkened. None: the longest of
            the field, so that nothing is.

    Returns:
        (H, W, 3) uint8 RGB. NaN, infinite and Middlebury's "unknown" vectors are black.

    Raises:
        ValueError: another shape, or ``max_px`` not positive.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"flow has the shape {flow.shape}; it must be (2, H, W), x first")
    if max_px is not None and not max_px > 0:
        raise ValueError(f"max_px is {max_px}; it must be above 0")
    known = np.isfinite(flow).all(axis=0) & (np.abs(flow) <= UNKNOWN_PX).all(axis=0)
    x, y = np.where(known, flow, 0).astype(np.float64)
    length = np.hypot(x, y)
    longest = max_px if max_px is not None else float(length.max(initial=0))
    radius = (length / (longest or 1))[..., None]

    wheel = color_wheel()
    # arctan2(-y, -x) runs from -pi to pi and is at its end for a motion to the right: red.
    position = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(wheel) - 1)
    below = np.floor(position).astype(int)
    share = (position - below)[..., None]
    hue = (1 - share) * wheel[below] + share * wheel[(below + 1) % len(wheel)]
    # Towards white inside the circle of full color, three quarters as bright outside of it.
    color = np.where(radius <= 1, 1 - radius * (1 - hue), 0.75 * hue)
    color[~known] = 0
    return np.floor(255 * color).astype(np.uint8)

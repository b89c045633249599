"""Index arithmetic of sampling: which frames, fields and columns are used."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_SLACK = 1e-6
"""Tolerance to rounding of timestamps, as a share of a frame's duration."""


def uniform_positions(*, n: int, count: int) -> list[int]:
    """Returns the positions of `count` samples spread evenly over `n`: centers of equal segments.

    Example: for n=10, count=3 the segments 0..3.3..6.7..10 have their centers at 1, 5 and 8. For
    n < count positions repeat.

    Args:
        n: number of positions to choose from.
        count: number of samples (25 in the tests of Simonyan and Zisserman, 2014).

    Returns:
        `count` indices in [0, n), ascending.

    Raises:
        ValueError: n or count is not positive.
    """
    _positive("n", n)
    _positive("count", count)
    return [int((2 * i + 1) * n // (2 * count)) for i in range(count)]


def stack_indices(*, start: int, length: int, n: int) -> list[int]:
    """Returns `length` indices of fields from `start` on; past the end the last one repeats.

    Args:
        start: first index, in [0, n).
        length: number of indices.
        n: number of fields.

    Raises:
        ValueError: start is outside [0, n), or length or n is not positive.
    """
    _positive("n", n)
    _positive("length", length)
    if not 0 <= start < n:
        raise ValueError(f"start={start} is outside 0..{n - 1}")
    return [min(start + i, n - 1) for i in range(length)]


def ticks_before(seconds: float, *, fps: float) -> int:
    """Returns how many of the times 0, 1/fps, 2/fps, ... lie before `seconds`."""
    return max(math.ceil(seconds * fps - _SLACK), 0)


def resample_indices(
    *, timestamps: Sequence[float], fps: float, end: float | None = None
) -> list[int]:
    """Returns the frame that is shown at every tick of a clock of `fps` ticks per second.

    ::

        frame      0     1  2        3
        shown      |-----|--|--------|----|end
        ticks      |    |    |    |    |
        taken      0    0    2    2    3

    Args:
        timestamps: seconds at which each frame appears, in ascending order.
        fps: ticks per second.
        end: seconds at which the last frame disappears; None: after the duration of the frame
            before it.

    Returns:
        One frame index per tick, ascending. A frame with a long duration repeats; one with a short
        duration may be left out.

    Raises:
        ValueError: fps is not positive, timestamps fall, or `end` is before the last timestamp.
    """
    if not fps > 0:
        raise ValueError(f"fps={fps!r} must be positive")
    if len(timestamps) == 0:
        return []
    times = np.asarray(timestamps, dtype=np.float64)
    gaps = np.diff(times)
    if (gaps < 0).any():
        at = int(np.argmax(gaps < 0))
        raise ValueError(f"timestamps fall from {times[at]} to {times[at + 1]} at {at}; sort them")
    if end is None:
        end = float(times[-1] + (gaps[-1] if len(gaps) else 1 / fps))
    if end < times[-1]:
        raise ValueError(f"end={end} comes before the last timestamp, {times[-1]}")
    shown_until = np.append(times[1:], end) - times[0]
    counts = np.diff([0, *(ticks_before(t, fps=fps) for t in shown_until)])
    return np.repeat(np.arange(len(times)), counts).tolist()


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")

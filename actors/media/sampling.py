"""Which frames are looked at: pure index arithmetic, nothing is decoded here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_SLACK = 1e-6
"""Share of a frame's time that rounding of timestamps may be off without moving a frame."""


def uniform_positions(*, n: int, count: int) -> list[int]:
    """Positions of `count` samples spread evenly over `n`: the centres of equal segments.

    Case n=10, count=3: segments 0..3.3..6.7..10 have their centres at 1, 5 and 8. Where n < count
    positions repeat.

    Args:
        n: how many there are to choose from.
        count: how many to choose (25 in Simonyan & Zisserman's two-stream test, 2014).

    Returns:
        `count` indices in [0, n), ascending.

    Raises:
        ValueError: n or count is not positive.
    """
    _positive("n", n)
    _positive("count", count)
    return [int((2 * i + 1) * n // (2 * count)) for i in range(count)]


def stack_indices(*, start: int, length: int, n: int) -> list[int]:
    """The `length` fields from `start` on; past the end the last one is repeated.

    Raises:
        ValueError: start is outside [0, n), or length is not positive.
    """
    _positive("n", n)
    _positive("length", length)
    if not 0 <= start < n:
        raise ValueError(f"start={start} is outside 0..{n - 1}")
    return [min(start + i, n - 1) for i in range(length)]


def ticks_before(seconds: float, *, fps: float) -> int:
    """How many of the moments 0, 1/fps, 2/fps, ... lie before `seconds`."""
    return max(math.ceil(seconds * fps - _SLACK), 0)


def resample_indices(
    *, timestamps: Sequence[float], fps: float, end: float | None = None
) -> list[int]:
    """Which frame is on display at every tick of an even clock of `fps` ticks per second.

    ::

        frame      0     1  2        3
        shown      |-----|--|--------|----|end
        ticks      |    |    |    |    |
        taken      0    0    2    2    3

    Args:
        timestamps: seconds at which each frame comes up; never falling.
        fps: ticks per second.
        end: when the last frame goes; None: after a gap as long as the one before it.

    Returns:
        one frame index per tick, never falling; a frame shown long is repeated, one shown shortly
        may be left out.

    Raises:
        ValueError: fps is not positive, timestamps fall, or `end` comes before the last of them.
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

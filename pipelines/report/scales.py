"""Axes: positions of values, and ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Place = Callable[[float], float]
"""Value -> position in pixels."""


@dataclass(frozen=True)
class Axis:
    """An axis: ``place`` takes values to pixels; ``ticks`` are (value, label)."""

    place: Place
    ticks: tuple[tuple[float, str], ...]
    break_px: float | None = None
    """Position of the break between zero and the logarithmic part; None: no break."""


def linear(low: float, high: float, start_px: float, end_px: float, *, steps: int = 4) -> Axis:
    """Returns an axis over ``low..high``, rounded outwards to about ``steps`` round steps."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / steps
    unit = 10.0 ** math.floor(math.log10(raw))
    step = unit * next(k for k in (1, 2, 2.5, 5, 10) if k * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    bottom, top = first * step, last * step

    def place(value: float) -> float:
        return start_px + (value - bottom) / (top - bottom) * (end_px - start_px)

    ticks = tuple((k * step, f"{k * step:.6g}") for k in range(first, last + 1))
    return Axis(place, ticks)


def log_with_zero(values: Iterable[float], start_px: float, end_px: float) -> Axis:
    """Returns a logarithmic axis by whole decades; zeros, if any, get a separate lane at the start.

    A penalty of exactly zero gives a different model, not a limit of small penalties; the break
    in the axis shows it.
    """
    seen = [value for value in values if value >= 0]
    positive = [value for value in seen if value > 0]
    low = math.floor(math.log10(min(positive))) if positive else -3
    high = math.ceil(math.log10(max(positive))) if positive else 0
    high = max(high, low + 1)
    lane = 0.13 * (end_px - start_px) if len(positive) < len(seen) else 0.0
    begin = start_px + lane

    def place(value: float) -> float:
        if value <= 0:
            return start_px + lane * 0.35
        return begin + (math.log10(value) - low) / (high - low) * (end_px - begin)

    every = math.ceil((high - low) / 6)
    ticks: list[tuple[float, str]] = [(0.0, "0")] if lane else []
    ticks += [(10.0**k, _power(k)) for k in range(low, high + 1, every)]
    return Axis(place, tuple(ticks), start_px + lane * 0.75 if lane else None)


def _power(exponent: int) -> str:
    if exponent in (0, 1):
        return str(10**exponent)
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Returns at most about ``most`` points with the same outline: each bucket's low and high."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        outline = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept += sorted(outline)
    return kept

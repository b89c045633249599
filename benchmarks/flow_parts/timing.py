"""Runs in turn (A B A B ...), medians, and a line of progress."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def say(text: str) -> None:
    """A line of progress, which is no result."""
    print(text, file=sys.stderr, flush=True)


def seconds_of(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turn(jobs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each job, once per round, so that what slows the machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            seconds[name].append(seconds_of(job))
    return seconds


def ratio(slow: Sequence[float], quick: Sequence[float]) -> float:
    """How many times as fast, the median over rounds."""
    return statistics.median(a / b for a, b in zip(slow, quick, strict=True))

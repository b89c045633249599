"""TV-L1 on the CPU against OpenCV's, the same pairs and threads, in turn."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.flow import flow, quantize
from actors.flow.settings import SCHEDULES, TVL1
from benchmarks.flow_parts.clips import Gray
from benchmarks.flow_parts.contenders import (
    Contender,
    opencv_tvl1,
    set_opencv_threads,
    side_by_side,
)
from benchmarks.flow_parts.timing import in_turn, ratio, say

BOUND = 20.0
AGAIN = 10
"""How often a round finds our fields: one time is some tenths of a second, too short to be sure of
where other machines share the processor."""
ROUNDS = {"exact": 3, "fast": 9}
"""Factor on the rounds where threads and clips are compared: about a minute per schedule."""
ROOT = Path(__file__).resolve().parents[2]
FIRST_CALL = """
import json, time
begun = time.perf_counter()
import numpy as np
from actors.flow import TVL1, flow
ready = time.perf_counter()
flow(np.random.default_rng(0).integers(0, 256, (2, 240, 320), np.uint8), TVL1(warps=1, scales=2))
print(json.dumps([ready - begun, time.perf_counter() - ready]))
"""
"""Seconds until flow is imported, and until the first field is there."""

Figures = dict[str, Any]
Fields = list[NDArray[np.float32]]
Seconds = Mapping[str, Sequence[float]]


def measure_cpu(clips: Sequence[Gray], pairs: int, threads: Sequence[int], repeats: int) -> Figures:
    """Both schedules against OpenCV.

    Args:
        clips: (T, 240, 320) each, T > `pairs`.
        pairs: of each clip that OpenCV is measured on; ours on the same.
        threads: numbers of threads, each the same for both sides.
        repeats: rounds.
    """
    short = [clip[: pairs + 1] for clip in clips]
    figures: Figures = {"pairs": pairs * len(clips), "clips": len(clips), "opencv": {}}
    figures |= agreement(short)
    for count in threads:
        say(f"cpu: speed with {count} thread{'s' if count > 1 else ''}")
        key = f"threads_{count}"
        seconds = in_turn(_jobs(short, count), repeats)
        seconds |= {name: [s / AGAIN for s in seconds[name]] for name in SCHEDULES}
        for name in SCHEDULES:
            figures[name][key] = _speed(name, seconds, figures["pairs"])
            figures[name][key]["ns_per_pixel_iteration"] = ns_per_pixel_iteration(
                lambda frames, s, n=count: flow(frames, s, threads=n), name, clips[0], repeats
            )
            figures["opencv"].setdefault(key, {})[f"{name}_pairs_per_s"] = figures[
                "pairs"
            ] / statistics.median(_opencv(seconds, name)[1])
        figures["opencv"][key]["parallel"] = _opencv(seconds, "exact")[0]
    figures["opencv"]["ns_per_pixel_iteration"] = _opencv_ns(clips[0], repeats)
    return figures | together(clips, max(threads), repeats) | first_call(repeats)


def agreement(clips: Sequence[Gray]) -> dict[str, Figures]:
    """Share of each schedule's uint8 values within 1 of OpenCV's with its own parameters."""
    say("cpu: OpenCV's fields, to agree with")
    theirs = _opencv_fields(clips, SCHEDULES["exact"])
    return {
        name: {"uint8_within_1": within_one([flow(clip, schedule) for clip in clips], theirs)}
        for name, schedule in SCHEDULES.items()
    }


def within_one(ours: Fields, theirs: Fields) -> float:
    """Share of the values that differ by at most 1 once they are bytes (bound 20)."""
    levels = [quantize(np.concatenate(f), BOUND).astype(np.int16) for f in (ours, theirs)]
    return float(np.mean(np.abs(levels[0] - levels[1]) <= 1))


def _opencv_fields(clips: Sequence[Gray], settings: TVL1) -> Fields:
    set_opencv_threads(1)
    find = opencv_tvl1(settings)
    return [np.stack(side_by_side(find, pairs_of(clip), 2)) for clip in clips]


def pairs_of(clip: Gray) -> list[Gray]:
    return [clip[i : i + 2] for i in range(len(clip) - 1)]


def _jobs(clips: Sequence[Gray], threads: int) -> dict[str, Callable[[], Any]]:
    """OpenCV may use its threads inside a pair or for pairs side by side: both are tried."""
    jobs: dict[str, Callable[[], Any]] = {}
    pairs = [pair for clip in clips for pair in pairs_of(clip)]
    for name, schedule in SCHEDULES.items():
        jobs[name] = partial(_ours, [*clips] * AGAIN, schedule, threads)
        find = opencv_tvl1(schedule)
        if threads == 1:
            jobs[f"opencv {name}, one thread"] = partial(_theirs, find, pairs, 1, 1)
        else:
            jobs[f"opencv {name}, threads inside"] = partial(_theirs, find, pairs, threads, 1)
            jobs[f"opencv {name}, side by side"] = partial(_theirs, find, pairs, 1, threads)
    return jobs


def _ours(clips: Sequence[Gray], settings: TVL1, threads: int) -> None:
    for clip in clips:
        flow(clip, settings, threads=threads)


def _theirs(find: Contender, pairs: Sequence[Gray], inside: int, beside: int) -> None:
    set_opencv_threads(inside)
    side_by_side(find, pairs, beside)


def _opencv(seconds: Seconds, schedule: str) -> tuple[str, Sequence[float]]:
    """OpenCV's better way to use its threads: what it is called, and its times."""
    ways = {name: s for name, s in seconds.items() if name.startswith(f"opencv {schedule},")}
    best = min(ways, key=lambda name: statistics.median(ways[name]))
    return best.partition(", ")[2], ways[best]


def _speed(name: str, seconds: Seconds, pairs: int) -> Figures:
    figures = {
        "pairs_per_s": pairs / statistics.median(seconds[name]),
        "ratio_to_opencv": ratio(_opencv(seconds, "exact")[1], seconds[name]),
    }
    if name != "exact":
        same = ratio(_opencv(seconds, name)[1], seconds[name])
        figures["ratio_to_opencv_same_schedule"] = same
    return figures


def ns_per_pixel_iteration(
    find: Callable[[Gray, TVL1], Any], name: str, clip: Gray, repeats: int, few: int = 20,
    many: int = 220,
) -> float:  # fmt: skip
    """What one more iteration costs, over a clip's pixels: the slope between few and many.

    One scale, one warp. For `exact` with the stop rule looked at but never met.
    """
    base = replace(SCHEDULES[name], scales=1, warps=1, outer_iterations=1)
    if base.epsilon > 0:
        base = replace(base, epsilon=1e-6)
    jobs = {str(n): partial(find, clip, replace(base, inner_iterations=n)) for n in (few, many)}
    seconds = in_turn(jobs, repeats + 2)
    more, less = (statistics.median(seconds[str(count)]) for count in (many, few))
    return 1e9 * (more - less) / ((many - few) * clip[1:].size)


def _opencv_ns(clip: Gray, repeats: int) -> float:
    set_opencv_threads(1)
    return ns_per_pixel_iteration(
        lambda frames, settings: opencv_tvl1(settings)(frames), "exact", clip[:2], repeats, 5, 25
    )


def together(clips: Sequence[Gray], threads: int, repeats: int) -> Figures:
    """All threads against one, and a clip's frames together against pair by pair.

    A call for one pair can use one thread only, whatever it is given.
    """
    say("cpu: threads, and clips against pairs")
    pairs = [pair for clip in clips for pair in pairs_of(clip)]
    figures: Figures = {}
    for name, schedule in SCHEDULES.items():
        # So that what is divided by one another is measured one after the other.
        order = (("apart", 1), ("together", 1), ("together", threads), ("apart", threads))
        jobs: dict[str, Callable[[], Any]] = {}
        for how, count in order:
            work = [*clips] if how == "together" else pairs
            jobs[f"{how} {count}"] = partial(_ours, work, schedule, count)
        seconds = in_turn(jobs, repeats * ROUNDS[name])
        figures[f"{name}_threads_{threads}_to_1"] = ratio(
            seconds["together 1"], seconds[f"together {threads}"]
        )
        for count in (1, threads):
            figures[f"{name}_clip_to_pairs_threads_{count}"] = ratio(
                seconds[f"apart {count}"], seconds[f"together {count}"]
            )
    return figures


def first_call(repeats: int) -> Figures:
    """A fresh process's first field, what is compiled being on disk."""
    say("cpu: first call in a fresh process")
    found = []
    for _ in range(repeats + 1):  # the first one may compile
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CALL], cwd=ROOT, check=True, capture_output=True, text=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    imports, call = (statistics.median(times) for times in zip(*found[1:], strict=True))
    return {"first_call_import_s": imports, "first_call_s": call}

"""Endpoint errors on Middlebury, and the speed of every method beside them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from actors.flow import flow
from actors.flow.settings import SCHEDULES
from benchmarks.flow_parts.clips import Gray, Truth, read_middlebury
from benchmarks.flow_parts.contenders import (
    Contender,
    importable,
    opencv_tvl1,
    others,
    set_opencv_threads,
    side_by_side,
)
from benchmarks.flow_parts.timing import in_turn, say

SLOW = ("scikit-image", "RAFT", "OpenCV TV-L1")
"""Seconds or so per pair."""
EVERY = 16
"""Pairs of a clip of which one is measured."""
AGAIN = 10
"""How often a round finds the fields of methods that are not slow."""


def tvl1_contenders() -> dict[str, Contender]:
    """Ours and OpenCV's, both schedules."""
    found: dict[str, Contender] = {
        f"{name}": lambda pair, s=schedule: flow(pair, s)[0] for name, schedule in SCHEDULES.items()
    }
    if importable("cv2"):
        found |= {
            f"OpenCV TV-L1 {name}": opencv_tvl1(schedule) for name, schedule in SCHEDULES.items()
        }
    return found


def measure_middlebury(folder: Path) -> dict[str, dict[str, float]]:
    """Mean endpoint error in pixels of each method on each pair with ground truth."""
    pairs = read_middlebury(folder)
    if importable("cv2"):
        set_opencv_threads(1)
    errors: dict[str, dict[str, float]] = {}
    for name, find in (tvl1_contenders() | others()).items():
        say(f"middlebury: {name}")
        inputs = [t.color if name.startswith("RAFT") else t.gray for t in pairs.values()]
        fields = side_by_side(find, inputs, os.cpu_count() or 1)
        errors[name] = _errors(pairs, fields)
    return errors


def _errors(pairs: Mapping[str, Truth], fields: Sequence[Any]) -> dict[str, float]:
    found = {
        name: truth.error(field) for (name, truth), field in zip(pairs.items(), fields, strict=True)
    }
    return found | {"mean": statistics.mean(found.values())}


def measure_methods(clips: Sequence[Gray], repeats: int) -> dict[str, float]:
    """Pairs per second of every method, one thread, in turn on the same 320x240 pairs."""
    if importable("cv2"):
        set_opencv_threads(1)
    torch.set_num_threads(1)
    pairs = [clip[i : i + 2] for clip in clips for i in range(0, len(clip) - 1, EVERY)]
    found = tvl1_contenders() | others()
    jobs, counts = {}, {}
    say(f"methods: {', '.join(found)}")
    for name, find in found.items():
        find(pairs[0])  # what is made at the first call is not timed
        counts[name] = 1 if name.startswith(SLOW) else AGAIN
        jobs[name] = partial(side_by_side, find, pairs * counts[name], 1)
    return {
        name: counts[name] * len(pairs) / statistics.median(seconds)
        for name, seconds in in_turn(jobs, repeats).items()
    }

"""TV-L1 on a GPU: needs torch, Triton and NumPy; what else is there is used."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from actors.flow import flow, quantize
from actors.flow.settings import SCHEDULES, TVL1
from benchmarks.flow_parts.clips import Gray, moved_frames
from benchmarks.flow_parts.contenders import importable
from benchmarks.flow_parts.timing import in_turn, say

BOUND = 20.0
BATCHES = (64, 256, 1024)
"""Pairs per call."""
COMPARED = 8
"""Pairs compared with the CPU's."""


def measure_cuda(clips: Sequence[Gray] | None, repeats: int) -> dict[str, Any]:
    """Pairs per second, frames up as uint8 and flow down as uint8, for several sizes of a batch.

    Args:
        clips: to measure on, repeated to the size of a batch; None: made frames.
        repeats: rounds.
    """
    from actors.flow.cuda.engine import CUDAEngine

    frames = moved_frames(17)[None] if clips is None else np.stack(clips)
    pairs = np.stack([frames[:, :-1], frames[:, 1:]], axis=2).reshape(-1, 2, *frames.shape[2:])
    out: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "clips": "made" if clips is None else "real",
        "pairs": len(pairs),
    }
    for name, schedule in SCHEDULES.items():
        jobs = {}
        for size in BATCHES:
            batch = pairs[np.arange(size) % len(pairs)]
            # One for each: an engine keeps what it has prepared for the last size only.
            engine = CUDAEngine(schedule)
            jobs[str(size)] = partial(engine.quantized, batch, BOUND)
            say(f"cuda: {name}, {size} pairs at once")
            for _ in range(2):  # compiles, then records its launches
                jobs[str(size)]()
        rates = {
            f"pairs_per_s_{size}": int(size) / statistics.median(seconds)
            for size, seconds in in_turn(jobs, repeats + 2).items()
        }
        out[name] = rates | {"pairs_per_s": max(rates.values())}
        out[name] |= _agreement(engine, schedule, pairs[:COMPARED])
    return out


def _agreement(engine: Any, schedule: TVL1, pairs: Gray) -> dict[str, float]:
    """Share of the values within 1 of the CPU's, where Numba is there to compute them."""
    if not importable("numba"):
        say("cuda: not compared with the CPU; numba can't be imported")
        return {}
    ours = engine.quantized(pairs, BOUND).astype(np.int16)
    theirs = np.stack([quantize(flow(pair, schedule)[0], BOUND) for pair in pairs])
    return {"uint8_within_1_of_cpu": float(np.mean(np.abs(ours - theirs) <= 1))}

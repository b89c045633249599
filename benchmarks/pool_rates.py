"""Clips per second through Ray Data, and in a plain pool of processes: what benchmarks share."""

from __future__ import annotations

import multiprocessing as mp
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from actors.pool.run import ClipWorker, Item, PoolResources, run_pool
from actors.storage import Storage

MakeWorker = Callable[[Storage], ClipWorker]
"""Makes the worker that writes its artifacts into a storage; it must be picklable."""

_worker: ClipWorker | None = None


def compare(
    make_worker: MakeWorker, rows: Sequence[Item], *, processes: int, rounds: int
) -> dict[str, Any]:
    """Both rates in turn (bare, Ray, bare, Ray, ...), with one thread in each process.

    Args:
        rows: what the workers are called with.
        processes: as many on both sides.
        rounds: turns of each.

    Returns:
        Medians ``bare_clips_per_s``, ``ray_clips_per_s`` and ``ray_to_bare``.
    """
    bare, through_ray = [], []
    for _ in range(rounds):
        bare.append(_bare_loop(make_worker, rows, processes))
        through_ray.append(_through_ray(make_worker, rows, processes))
    return {
        "bare_clips_per_s": statistics.median(bare),
        "ray_clips_per_s": statistics.median(through_ray),
        "ray_to_bare": statistics.median(r / b for r, b in zip(through_ray, bare, strict=True)),
    }


def _rate(marks: list[float]) -> float:
    """Clips per second from the fifth part of the clips to the last one, when all workers have
    started; `marks` are the times at which clips were done."""
    first = len(marks) // 5
    return (len(marks) - 1 - first) / (marks[-1] - marks[first])


def _start(make_worker: MakeWorker, output: str) -> None:
    global _worker
    torch.set_num_threads(1)  # as Ray has it for an actor of one CPU
    _worker = make_worker(Storage(output))


def _work(row: Item) -> None:
    assert _worker is not None
    _worker(row)


def _bare_loop(make_worker: MakeWorker, rows: Sequence[Item], processes: int) -> float:
    with tempfile.TemporaryDirectory() as output:
        context = mp.get_context("spawn")
        with context.Pool(processes, _start, (make_worker, output)) as pool:
            done = pool.imap_unordered(_work, rows, chunksize=1)
            return _rate([time.perf_counter() for _ in done])


def _through_ray(make_worker: MakeWorker, rows: Sequence[Item], processes: int) -> float:
    with tempfile.TemporaryDirectory() as output:
        marks: list[float] = []
        run_pool(
            rows,
            partial(make_worker, Storage(output)),
            storage=Storage(output),
            resources=PoolResources.for_cluster(max_actors=processes),
            on_row=lambda done, total, row: marks.append(time.perf_counter()),
        )
        return _rate(marks)

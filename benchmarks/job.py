#!/usr/bin/env python3
"""The whole demo job against the sum of its work in bare loops, on the same cores.

    python benchmarks/job.py [any setting of pipelines/full.py]

First the job as a user starts it. Then the same job once more without Ray: what Ray Data, Ray Train
and Ray Tune run is run by plain processes, one per core, that have imported all they need before
the clock starts; the points of the search are those that the job tried, for as many epochs. The
work of a step is the seconds that these processes were busy with it over the number of cores (of
the search, whose points follow one another, the seconds themselves), or of a step that the job's
own process does, the seconds it took. Each run has a storage of its own. Figures: a table, and one
JSON object on the last line.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.cli.launch import ROOT  # noqa: E402

JOB = ROOT / "pipelines" / "full.py"
CORES = len(os.sched_getaffinity(0))
OF_THE_DRIVER = ("fusion", "evaluate", "register")
ROWS_AT_ONCE = 8

Seconds = dict[str, float]


# What a bare process does.


def warm_up() -> None:
    """What a process needs, before the clock starts."""
    import torch

    import tuning.ray_search  # noqa: F401

    torch.set_num_threads(1)  # as the job has it for a share of a core


_workers: dict[str, Any] = {}


def bare_rows(place: str, make_worker: Callable[[], Any], rows: list[dict]) -> tuple[float, list]:
    """Rows of the ledger, as `actors.pool.run` makes them."""
    from actors.errors import MediaError

    if place not in _workers:
        _workers[place] = make_worker()
    outs, begun = [], time.perf_counter()
    for row in rows:
        out: dict[str, Any] = {"id": row["id"], "artifact": row["name"], "ok": True}
        out |= {"kind": "", "message": "", "seconds": 0.0, "facts": "{}"}
        try:
            out["facts"] = json.dumps(_workers[place](row))
        except MediaError as error:
            out |= {"ok": False, "kind": error.kind, "message": error.message}
        outs.append(out)
    return time.perf_counter() - begun, outs


def bare_fit(spec: Any) -> float:
    from trainers.fit import ray_fit

    begun = time.perf_counter()
    ray_fit._fit_here(spec, _nobody, rank=0, world_size=1, device="cpu", wrap=None)
    return time.perf_counter() - begun


def bare_point(try_point: Callable[..., None], trial: dict[str, Any], given: dict) -> float:
    """A point of the search, for as many epochs as the job gave it."""
    from tuning import ray_search

    class Enough(Exception):
        pass

    def report(metrics: dict[str, Any]) -> None:
        if metrics.get("epoch", 0) >= trial["epochs"]:
            raise Enough

    ray_search.tune.report = report
    begun = time.perf_counter()
    with suppress(Enough):
        try_point({name: trial[name] for name in ("lambda2", "lambda3")}, **given)
    return time.perf_counter() - begun


def _nobody(done: int, total: int, metrics: dict[str, float]) -> None:
    """Nobody watches."""


# The job without Ray.


class Captured(Exception):
    """Carries what the search would have handed to Ray Tune."""


class Bare:
    """Stands in for Ray: runs things on plain processes and notes how long they were busy.

    Args:
        pool: the processes.
        found: what the job's search found, with the points that it tried.
    """

    def __init__(self, pool: ProcessPoolExecutor, found: dict[str, Any]) -> None:
        self.pool, self.found = pool, found
        self.busy: Seconds = defaultdict(float)
        self._lock = threading.Lock()

    def note(self, step: str, seconds: float) -> None:
        with self._lock:
            self.busy[step] += seconds

    def stream(self, todo: Any, make: Any, notes: Any, resources: Any) -> Iterator[dict]:
        """In place of `actors.pool.run._stream`."""
        place = notes.storage.path()
        step = "extract" if "/artifacts/" in place else Path(place).name.rpartition("-")[0]
        parts = [list(todo[i : i + ROWS_AT_ONCE]) for i in range(0, len(todo), ROWS_AT_ONCE)]
        jobs = [self.pool.submit(bare_rows, place, make, part) for part in parts]
        for job in as_completed(jobs):
            seconds, outs = job.result()
            self.note(step, seconds)
            yield from outs

    def fit(self, spec: Any, resources: Any, progress: Any, pool: Any = None) -> dict[str, Any]:
        """In place of `trainers.fit.ray_fit.fit_with_ray`."""
        self.note(spec.name.replace(" ", "_"), self.pool.submit(bare_fit, spec).result())
        return spec.output.read_json("result.json")

    def search(self, original: Any, *args: Any, **options: Any) -> Any:
        """In place of `tuning.ray_search.search`."""
        from tuning import ray_search

        def capture(try_point: Any, **given: Any) -> None:
            raise Captured(try_point, given)

        with_parameters, ray_search.tune.with_parameters = (
            ray_search.tune.with_parameters,
            capture,
        )
        try:
            original(*args, **options)
        except Captured as caught:
            try_point, given = caught.args
        finally:
            ray_search.tune.with_parameters = with_parameters
        for trial in self.found["trials"]:
            seconds = self.pool.submit(bare_point, try_point, trial, given).result()
            self.note("search", seconds * CORES)  # one at a time, as in the job
        return ray_search.SearchResult(**self.found)

    def take_over(self) -> None:
        """Puts itself in Ray's place in this process."""
        import actors.pool.run as run
        import pipelines.steps.job as job
        from trainers.fit import ray_fit
        from tuning import ray_search

        run._stream = self.stream
        run.PoolResources.for_cluster = staticmethod(  # type: ignore[method-assign, assignment]
            lambda **options: run.PoolResources(CORES, 1.0)
        )
        ray_fit.fit_with_ray = self.fit
        ray_search.search = partial(self.search, ray_search.search)
        job.Job.board = lambda self: None  # type: ignore[method-assign, assignment, return-value]


def run_bare(arguments: list[str], storage: Path, found: dict[str, Any]) -> Seconds:
    """Seconds of work by step."""
    report = storage / "report.json"
    context = mp.get_context("spawn")
    with ProcessPoolExecutor(CORES, context, initializer=warm_up) as pool:
        list(pool.map(time.sleep, [0.5] * CORES))
        bare = Bare(pool, found)
        bare.take_over()
        from pipelines import full
        from pipelines.cli.command_line import read_job

        sys.argv = [str(JOB), *arguments, "--storage", str(storage), "--report", str(report)]
        sys.argv += ["--resources.fit_workers", "0"]
        full.main(read_job(""))
    stages = json.loads(report.read_text())["stages"]
    work = {step: seconds / CORES for step, seconds in bare.busy.items()}
    return work | {step: stages[step]["seconds"] for step in OF_THE_DRIVER if step in stages}


def run_job(arguments: list[str], storage: Path) -> tuple[Seconds, float]:
    """Seconds by step and in all, as a user starts it."""
    report = storage / "report.json"
    command = [sys.executable, str(JOB), *arguments]
    command += ["--storage", str(storage), "--report", str(report)]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    took = time.perf_counter() - begun
    stages = json.loads(report.read_text())["stages"]
    return {name: stage["seconds"] for name, stage in stages.items()}, took


def make_videos(storage: Path) -> float:
    """Seconds that the demo's videos take, by the function that the job calls."""
    from pipelines.data.demo_videos import make_demo_set

    begun = time.perf_counter()
    make_demo_set(storage / "demo_videos", seed=0)
    return time.perf_counter() - begun


def show(job: Seconds, took: float, work: Seconds) -> None:
    print(f"{'step':<16}{'job, s':>10}{'work, s':>10}{'ratio':>8}")
    for step, seconds in work.items():
        spent = job.get(step)
        ratio = f"{spent / seconds:8.2f}" if spent and seconds > 0.05 else f"{'':8}"
        print(f"{step:<16}{spent if spent is not None else '':>10.5}{seconds:10.1f}{ratio}")
    total = sum(work.values())
    print(f"{'all':<16}{took:10.1f}{total:10.1f}{took / total:8.2f}")
    print("Steps of a job run side by side, so theirs do not add up to all of it.")


def main() -> None:
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        with_ray, without = Path(folder, "ray"), Path(folder, "bare")
        videos = make_videos(without)
        job, took = run_job(arguments, with_ray)
        found = next(with_ray.glob("stages/search-*/done.json"), None)
        facts = json.loads(found.read_text())["facts"] if found else {"trials": []}
        work = {"demo videos": videos} | run_bare(arguments, without, facts)
    work = {step: work[step] for step in ("demo videos", *job) if step in work}
    show(job, took, work)
    total = sum(work.values())
    figures = {"job_s": took, "work_s": total, "job_to_work": took / total}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    steps = {s: {"job_s": round(job.get(s, 0.0), 2), "work_s": round(work[s], 2)} for s in work}
    print(json.dumps({**rounded, "cores": CORES, "steps": steps}))


if __name__ == "__main__":
    os.chdir(ROOT)
    main()

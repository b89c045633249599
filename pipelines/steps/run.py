"""Runs a system's steps: a thread for each that is ready, a folder for each that is finished."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from pipelines.steps.fingerprint import fingerprint
from pipelines.steps.own_code import code_digests
from pipelines.steps.step import Step, StepResult, Work

if TYPE_CHECKING:
    from pipelines.steps.job import Job

DONE = "done.json"


def run(
    job: Job, steps: Sequence[Step], known: Mapping[str, StepResult] | None = None
) -> dict[str, StepResult]:
    """Runs the steps, each as soon as those that it needs are finished.

    A finished step is not run again while its fingerprint stays the same. After a failure the
    exception is raised at once; what still runs ends with the job and continues the next time.

    Args:
        steps: each after those that it needs, as `System.steps`.
        known: results of steps that have been run before in this job.

    Returns:
        step -> result, those of `known` included.

    Raises:
        ValueError: a step needs one that is neither among the steps nor known.
    """
    results = dict(known or {})
    waiting = [step for step in steps if step.name not in results]
    running: dict[Future[StepResult], Step] = {}
    pool = ThreadPoolExecutor(max(len(waiting), 1), thread_name_prefix="step")
    try:
        while waiting or running:
            ready = [step for step in waiting if all(name in results for name in step.needs)]
            waiting = [step for step in waiting if step not in ready]
            if not ready and not running:
                raise ValueError(f"steps that these need are not run: {[s.name for s in waiting]}")
            for step in ready:
                needed = {name: results[name] for name in step.needs}
                running[pool.submit(run_step, job, step, needed)] = step
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                results[running.pop(future).name] = future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return results


def run_step(job: Job, step: Step, results: Mapping[str, StepResult]) -> StepResult:
    """Runs one step unless it is finished, and prints its line.

    Args:
        results: of the steps that it needs.
    """
    mark = step_fingerprint(step, results)
    storage = job.storage.join("stages", f"{step.name}-{mark}")
    if storage.exists(DONE):
        done = storage.read_json(DONE)
        result = StepResult(step.name, mark, storage, done["facts"], done["seconds"], cached=True)
    else:
        result = _run(job, step, mark, Work(job, step, storage, results))
    job.note(result, items=step.items, unit=step.unit, text=step.describe(result.facts))
    return result


def step_fingerprint(step: Step, results: Mapping[str, StepResult]) -> str:
    """Covers the step's version, lasting settings and data, its inputs' fingerprints, and the
    files of the user's own modules that it runs or that its settings name."""
    # In order: what joins several streams draws its weights in the order of the streams.
    inputs = [[name, results[name].fingerprint] for name in step.needs]
    code = code_digests(step.run, step.settings, step.data)
    own = [code] if code else []
    return fingerprint(step.name, step.version, step.settings, step.data, inputs, *own)


def _run(job: Job, step: Step, mark: str, work: Work) -> StepResult:
    begun = time.monotonic()
    with job.tracker.child(job.run, step.name) as run:
        if step.settings is not None:
            run.log_params({"step": step.name, **vars(step.settings)})
        facts = step.run(Work(job, step, work.storage, work.results, run))
        run.log_curve(facts.get("history", []))
        run.log_metrics(facts.get("metrics", {}))
    seconds = time.monotonic() - begun
    # The marker of success is written last.
    work.storage.write_json(DONE, {"facts": facts, "seconds": seconds})
    return StepResult(step.name, mark, work.storage, facts, seconds, cached=False)

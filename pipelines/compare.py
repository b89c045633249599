#!/usr/bin/env python3
"""Job: compares the hybrid with every method of its paper (Tables I to III) on your own clips.

    pipelines/compare.py --storage URI [--methods NAME,...] [--folds K | --splits 1,2,3] [settings]

Takes the same settings as `full.py`, finds what that left in the storage, and does what is missing.
--methods names rows (such as svm_mkl,rdnn) or tables (table1, table2, table3); default: all.
--splits runs a data set's official splits, --folds cuts all clips into K folds by group: networks
are trained anew for each, so that no clip is judged by a network that has seen it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start  # goes on in the environment that has Ray
    from pipelines.cli.compare_options import read_comparison  # isort: skip

    start("pipelines.compare", lambda: read_comparison(__doc__ or "", sys.argv[1:]))

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from actors.storage import Storage
from pipelines.cli.compare_options import AskedComparison, Plan, check_methods
from pipelines.cli.settings import SEQUENCE_STREAMS, Settings
from pipelines.evaluate import read_scores, score_systems
from pipelines.extract import extract
from pipelines.report.compared import describe, summarize
from pipelines.report.comparison import (
    Comparison,
    comparison_html,
    figure_svg,
    precision_figure,
    terminal_tables,
    to_csv,
    to_latex,
)
from pipelines.steps.caching import Facts, StageResult, fingerprint, run_stage
from pipelines.steps.job import Job, open_job
from pipelines.tracking.runs import Run
from pipelines.train import train
from pipelines.tune import Tuned, tune
from trainers.comparison.rows import Row, RowInputs, rows
from trainers.comparison.task import compute_row
from trainers.targets import Targets

VERSION = 2
"""Changes when a row's method does, so that earlier results are not taken for it."""
SCORES = "scores.safetensors"
HYBRID = "hybrid"


@dataclass(frozen=True, eq=False)
class ComparedSplit:
    """One split's test clips and every row's scores of them."""

    name: str
    ids: tuple[str, ...]
    targets: Targets
    groups: NDArray[np.str_]
    scores: Mapping[str, NDArray[np.float64]]
    facts: Mapping[str, Facts]
    """Row -> ``chosen`` and ``seconds``."""


def chosen_rows(settings: Settings, methods: Sequence[str]) -> list[Row]:
    """The rows asked for; the hybrid is always among them, as all are tested against it.

    Raises:
        UserError: a name that no row or table has.
    """
    check_methods(settings, methods)
    streams = settings.chosen_streams
    known = rows(streams, [s for s in streams if s in SEQUENCE_STREAMS])
    if not methods:
        return known
    wanted = {*methods, HYBRID}
    return [row for row in known if row.name in wanted or f"table{row.table}" in wanted]


def compare_split(job: Job, name: str, chosen: Sequence[Row]) -> ComparedSplit:
    """Does what is missing before, then runs the rows."""
    extraction = extract(job)
    trained = train(job, extraction)
    tuned = tune(job, extraction, trained)
    scored = score_systems(job, trained, tuned)
    return run_rows(job, name, chosen, _row_inputs(job, tuned, scored), scored.fingerprint)


def run_rows(
    job: Job,
    name: str,
    chosen: Sequence[Row],
    inputs: RowInputs,
    scored: str,
) -> ComparedSplit:
    """Runs the rows side by side; a finished one is taken from the storage.

    Args:
        inputs: what the rows are computed from.
        scored: fingerprint of the systems' scores, and with them of all that they depend on.
    """
    shared = _Shared(job, inputs)
    pool = ThreadPoolExecutor(len(chosen), thread_name_prefix="row")
    futures = {row.name: pool.submit(_run_row, job, row, scored, shared) for row in chosen}
    try:
        for future in as_completed(futures.values()):
            future.result()
    finally:
        # A failure or a stop is not to wait for the other rows; they are kept as far as they are.
        pool.shutdown(wait=False, cancel_futures=True)
    stages = {row: future.result() for row, future in futures.items()}
    test = inputs.part("test")
    return ComparedSplit(
        name=name,
        ids=tuple(map(str, test.ids)),
        targets=test.targets,
        groups=test.groups,
        scores={
            row: safetensors.numpy.load(stage.storage.read_bytes(SCORES))["scores"]
            for row, stage in stages.items()
        },
        facts={row: stage.facts for row, stage in stages.items()},
    )


def _row_inputs(job: Job, tuned: Tuned, scored: StageResult) -> RowInputs:
    own = {name: tuned.search.facts[name] for name in ("lambda2", "lambda3")}
    return RowInputs(
        table=tuned.inputs.table,
        systems=read_scores(scored),
        fusion=replace(job.settings.fusion, **own),
        seed=job.settings.seed,
        notes=scored.facts["choice"]["notes"],
    )


class _Shared:
    """The inputs in Ray's object store, put there when the first row has to be computed."""

    def __init__(self, job: Job, inputs: RowInputs) -> None:
        self.job, self.inputs = job, inputs
        self._reference: Any = None
        self._lock = threading.Lock()

    def compute(self, row: Row) -> tuple[NDArray[np.float64], dict[str, Any], float]:
        import ray

        self.job.board()
        with self._lock:
            if self._reference is None:
                self._reference = ray.put(self.inputs)
        task: Any = ray.remote(num_cpus=1)(compute_row)
        streams = self.inputs.table.names
        lstms = [s for s in streams if s in SEQUENCE_STREAMS]
        scores, chosen, seconds = ray.get(task.remote(row.name, streams, lstms, self._reference))
        return scores, chosen, seconds


def _run_row(job: Job, row: Row, scored: str, shared: _Shared) -> StageResult:
    def work(storage: Storage) -> Facts:
        with job.tracker.child(job.run, f"compare {row.name}") as run:
            scores, chosen, seconds = shared.compute(row)
            run.log_params({"method": row.label, "table": row.table, **chosen})
            _log_measures(run, shared.inputs, scores, seconds)
        content = {"scores": np.ascontiguousarray(scores, np.float64)}
        storage.write_bytes(SCORES, safetensors.numpy.save(content))
        return {"chosen": chosen, "seconds": seconds}

    inputs, table = shared.inputs, shared.inputs.table
    shape = len(table), table.targets.n_classes
    key = [VERSION, row.name, row.settings, inputs.fusion, scored]
    key += [shape, inputs.seed, list(table.groups), list(table.splits)]
    result = run_stage(job.storage, f"compare_{row.name}", key, work)
    chosen = describe(result.facts["chosen"])
    # The stage's own time holds the wait for a free CPU, so the row's is shown.
    shown = replace(result, name="compare", seconds=result.facts["seconds"])
    job.note(shown, text=f"{row.label}: {chosen}" if chosen else row.label)
    return result


def _log_measures(run: Run, inputs: RowInputs, scores: NDArray[np.float64], seconds: float) -> None:
    from trainers.metrics.measures import summary

    targets = inputs.part("test").targets
    measures = summary(scores, targets.truth(), multi_label=targets.multi_label)
    run.log_metrics({**measures, "seconds": seconds})


def compare(asked: AskedComparison) -> Comparison:
    """Runs every split, then writes the tables beside the last split's report."""
    chosen, plans = chosen_rows(asked.settings, asked.choice.methods), asked.plans
    done: list[ComparedSplit] = []
    for number, plan in enumerate(plans, 1):
        with open_job(plan.settings, plan.manifest) as job:
            done.append(compare_split(job, plan.name, chosen))
            if number == len(plans):
                comparison = summarize(
                    done,
                    chosen,
                    title=f"{job.manifest.name}: the hybrid and what it is compared with",
                    command=job.command,
                    classes=job.manifest.classes,
                    multi_label=job.manifest.multi_label,
                )
                _write(job, comparison, plans)
    return comparison


def _write(job: Job, comparison: Comparison, plans: Sequence[Plan]) -> None:
    """The tables in every form, in a folder of their own, in MLflow and on the terminal."""
    mark = fingerprint(
        [plan.name for plan in plans], job.fingerprint, [r.name for r in comparison.rows]
    )
    folder = job.storage.join("runs", f"{job.manifest.name}-comparison-{mark}")
    files = {"comparison.html": comparison_html(comparison), "comparison.csv": to_csv(comparison)}
    for number in sorted({row.table for row in comparison.rows}):
        files[f"table_{number}.tex"] = to_latex(comparison, number)
    if comparison.ap_before is not None:
        files["figure_4.svg"] = figure_svg(precision_figure(comparison))
    for name, text in files.items():
        folder.write_bytes(name, text.encode())
    with job.tracker.child(job.run, f"comparison of {len(plans)} splits {mark}") as run:
        for name, text in files.items():
            run.log_text(f"comparison/{name}", text)
    job.console.rich.print()
    for table in terminal_tables(comparison):
        job.console.rich.print(table)
    job.console.say(f"\ncomparison  {folder.path('comparison.html')}", markup=False)


def main(asked: AskedComparison) -> None:
    """Compares."""
    compare(asked)

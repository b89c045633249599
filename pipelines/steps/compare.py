"""The comparison: rows of a paper's tables, computed side by side on every split."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pipelines.cli.compare_options import AskedComparison, Plan, check_methods
from pipelines.cli.settings import Settings
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
from pipelines.steps.fingerprint import fingerprint
from pipelines.steps.job import Job
from pipelines.steps.opening import open_job
from pipelines.steps.run import run_step
from pipelines.steps.score import read_final_scores
from pipelines.steps.step import Facts, Step, StepResult, Work
from pipelines.steps.system import build_system
from pipelines.steps.table import read_table
from pipelines.systems import comparison_rows, comparison_tables
from pipelines.systems.rows import RowInputs, TableRow, Tables
from trainers.metrics.measures import summary
from trainers.targets import Targets

VERSION = 3
"""Increased when the result of a row changes."""
SCORES = "scores.safetensors"


@dataclass(frozen=True, eq=False)
class ComparedSplit:
    """One split's test clips and every row's scores of them.

    Args:
        facts: row -> ``chosen`` and ``seconds``.
    """

    name: str
    ids: tuple[str, ...]
    targets: Targets
    groups: NDArray[np.str_]
    scores: Mapping[str, NDArray[np.float64]]
    facts: Mapping[str, Facts]


def chosen_rows(settings: Settings, methods: Sequence[str]) -> list[TableRow]:
    """The rows asked for; the reference is always among them, as all are tested against it.

    Raises:
        UserError: a name that no row or table has.
    """
    check_methods(settings, methods)
    named = comparison_rows(settings.system)
    members, tables = named.Members.of(settings.system_settings), named.TABLES
    known: list[TableRow] = comparison_tables(settings.system).rows(members)
    if not methods:
        return known
    wanted = {*methods, tables.reference}
    return [row for row in known if row.name in wanted or f"table{row.table}" in wanted]


def compare_split(job: Job, name: str, chosen: Sequence[TableRow]) -> ComparedSplit:
    """Runs what is missing of the system's steps, then the rows."""
    system = build_system(job)
    results = job.do(system.until("evaluate"))
    scored = results[system.output]
    assert job.given is not None
    work = Work(job, system.step(system.output), scored.storage, results)
    table = read_table(work, job.given, system.streams).table
    final = read_final_scores(system, scored, table)
    inputs = RowInputs(
        table=table,
        systems=final.scores,
        settings=comparison_tables(job.settings.system).row_settings(
            job.settings.system_settings, work
        ),
        seed=job.settings.seed,
        notes=final.choice["notes"],
    )
    return run_rows(job, name, chosen, inputs, scored)


def run_rows(
    job: Job, name: str, chosen: Sequence[TableRow], inputs: RowInputs, scored: StepResult
) -> ComparedSplit:
    """Runs the rows side by side; a finished one is taken from the storage.

    Args:
        scored: the step that scored all clips; all that rows depend on is in its fingerprint.
    """
    shared = _Shared(job, inputs)
    pool = ThreadPoolExecutor(len(chosen), thread_name_prefix="row")
    futures = {row.name: pool.submit(_run_row, job, row, scored, shared) for row in chosen}
    try:
        for future in as_completed(futures.values()):
            future.result()
    finally:
        # After a failure or a stop the other rows are not waited for; finished ones are kept.
        pool.shutdown(wait=False, cancel_futures=True)
    results = {row: future.result() for row, future in futures.items()}
    test = inputs.part("test")
    return ComparedSplit(
        name=name,
        ids=tuple(str(one) for one in test.ids),
        targets=test.targets,
        groups=test.groups,
        scores={
            row: safetensors.numpy.load(result.storage.read_bytes(SCORES))["scores"]
            for row, result in results.items()
        },
        facts={row: result.facts for row, result in results.items()},
    )


class _Shared:
    """The rows' inputs in Ray's object store, put there when the first row is computed."""

    def __init__(self, job: Job, inputs: RowInputs) -> None:
        self.job, self.inputs = job, inputs
        self._reference: Any = None
        self._lock = threading.Lock()

    def compute(self, row: TableRow) -> tuple[NDArray[np.float64], dict[str, Any], float]:
        import ray

        self.job.board()
        with self._lock:
            if self._reference is None:
                self._reference = ray.put(self.inputs)
        settings = self.job.settings
        task: Any = ray.remote(num_cpus=1)(comparison_tables(settings.system).compute_row)
        members = comparison_rows(settings.system).Members.of(settings.system_settings)
        scores, chosen, seconds = ray.get(task.remote(row.name, members, self._reference))
        return scores, chosen, seconds


def _run_row(job: Job, row: TableRow, scored: StepResult, shared: _Shared) -> StepResult:
    step = Step(
        name=f"compare.{row.name}",
        run=partial(_compute, row, shared),
        needs=(scored.name,),
        data=[row.settings, shared.inputs.settings],
        version=VERSION,
        describe=partial(_described, row),
        job="evaluate",
    )
    return run_step(job, step, {scored.name: scored})


def _compute(row: TableRow, shared: _Shared, work: Work) -> Facts:
    scores, chosen, seconds = shared.compute(row)
    content = {"scores": np.ascontiguousarray(scores, np.float64)}
    work.storage.write_bytes(SCORES, safetensors.numpy.save(content))
    if work.run is not None:
        work.run.log_params({"method": row.label, "table": row.table, **chosen})
    targets = shared.inputs.part("test").targets
    measures = summary(scores, targets.truth(), multi_label=targets.multi_label)
    return {"chosen": chosen, "seconds": seconds, "metrics": {**measures, "seconds": seconds}}


def _described(row: TableRow, facts: Facts) -> str:
    chosen = describe(facts["chosen"])
    return f"{row.label}: {chosen}" if chosen else row.label


def compare(asked: AskedComparison) -> Comparison:
    """Runs every split, then writes the tables beside the last split's report."""
    chosen, plans = chosen_rows(asked.settings, asked.choice.methods), asked.plans
    tables: Tables = comparison_rows(asked.settings.system).TABLES
    done: list[ComparedSplit] = []
    for number, plan in enumerate(plans, 1):
        with open_job(plan.settings, plan.manifest) as job:
            done.append(compare_split(job, plan.name, chosen))
            if number == len(plans):
                comparison = summarize(
                    done,
                    chosen,
                    tables=tables,
                    data=job.manifest.name,
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
    figure = comparison.tables.figure
    if figure is not None and comparison.ap_before is not None:
        files[f"figure_{figure.number}.svg"] = figure_svg(precision_figure(comparison))
    for name, text in files.items():
        folder.write_bytes(name, text.encode())
    with job.tracker.child(job.run, f"comparison of {len(plans)} splits {mark}") as run:
        for name, text in files.items():
            run.log_text(f"comparison/{name}", text)
    job.console.rich.print()
    for table in terminal_tables(comparison):
        job.console.rich.print(table)
    job.console.say(f"\ncomparison  {folder.path('comparison.html')}", markup=False)

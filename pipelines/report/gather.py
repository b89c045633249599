"""Collects the results of a job into the report: HTML page, JSON file, table, MLflow."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from actors.storage import Storage
from pipelines.cli.settings import as_config
from pipelines.data.demo_clues import CLUES, ceiling, clue_agreement, visible_clues
from pipelines.report import (
    DataSummary,
    MethodResult,
    ReportData,
    figure_files,
    methods_table,
    render_html,
    report_json,
)
from pipelines.report.examples import example_clips
from pipelines.steps.evaluate import VALIDATION_SCORES, Evaluated
from pipelines.steps.extract import Extraction
from pipelines.steps.fuse import SEARCH_FOLDER
from pipelines.steps.job import Job
from pipelines.steps.opening import groups_in_words
from pipelines.steps.step import Row, StepResult, System
from pipelines.tracking.provenance import versions
from trainers.evaluation import MethodFigures, SystemScores, confusions, per_class_ap
from trainers.refinement.fitted import METHODS
from trainers.table import Table

FIGURES = ("accuracy", "mean_class_accuracy", "map", "hit5", "n")
"""Measures of a method that MLflow records."""

SEARCHED = ("trials", "lambda2", "lambda3", "score")
"""Facts of a step that searched."""


def report(
    job: Job, evaluated: Evaluated, promotion: Mapping[str, Any] | None = None
) -> ReportData:
    """Writes the report into the run's folder, logs it, and prints the summary."""
    data = _gather(job, evaluated, promotion or {})
    page, figures = render_html(data), report_json(data)
    job.files.write_bytes("report.html", page.encode())
    job.files.write_json("report.json", figures)
    if job.settings.report is not None:
        target = Path(job.settings.report).absolute()
        Storage(target.parent).write_json(target.name, figures)
    _log(job, data, page)
    _print_summary(job, data)
    return data


def _log(job: Job, data: ReportData, page: str) -> None:
    if job.run.finished and all(stage.cached for stage in data.stages):
        return
    job.run.log_text("report/report.html", page)
    for name, svg in figure_files(data).items():
        job.run.log_text(f"figures/{name}.svg", svg)
    metrics = {
        f"{method.name}.{key}": getattr(method, key) for method in data.methods for key in FIGURES
    }
    chosen = next((method for method in data.methods if method.chosen), None)
    if chosen is not None:
        metrics |= {f"refined.{key}": getattr(chosen, key) for key in FIGURES}
    job.run.log_metrics({name: value for name, value in metrics.items() if value is not None})
    job.run.log_table("rejected", job.files.read_table("rejected.parquet"))


def _print_summary(job: Job, data: ReportData) -> None:
    job.console.rich.print()
    job.console.rich.print(methods_table(data))
    job.console.say(f"\nrefinement  {data.refinement}", markup=False)
    groups = {video.group for video in job.manifest.split("val")}
    if len(groups) > 1 and job.files.exists(VALIDATION_SCORES):  # as refine.py requires
        scores = job.files.path(VALIDATION_SCORES)
        job.console.say(f"            scores for trying others: {scores}", markup=False)
    job.console.say(f"report      {job.files.path('report.html')}", markup=False)
    if data.rejected:
        table = job.files.path("rejected.parquet")
        listed = f"rejected    {len(data.rejected)} videos, listed in {table}"
        job.console.say(listed, markup=False)
    job.console.say(f"MLflow      {data.mlflow['ui_command']}", markup=False)
    if data.mlflow["tensorboard_command"]:
        curves = f"TensorBoard {data.mlflow['tensorboard_command']}"
        job.console.say(curves, markup=False)


def _gather(job: Job, evaluated: Evaluated, promotion: Mapping[str, Any]) -> ReportData:
    system, extraction = job.system, job.extraction
    assert system is not None and extraction is not None
    table = evaluated.table
    rows = table.rows("test")
    test = table.part(rows)
    final = evaluated.final
    on_test = {name: one.part(rows) for name, one in final.scores.items()}
    classes, multi_label = job.manifest.classes, job.manifest.multi_label
    before = on_test[final.ensemble]
    after = on_test[final.answer] if final.chosen in final.refinements else None
    return ReportData(
        title=f"{job.manifest.name}: {system.title} video classifier",
        command=job.command,
        started=job.started.strftime("%Y-%m-%d %H:%M UTC"),
        data=_summary(job, system, extraction),
        methods=_methods(job, system, evaluated, on_test, test),
        streams=tuple(system.streams),
        joint=final.ensemble,
        seconds=(datetime.now(UTC) - job.started).total_seconds(),
        machine=machine(),
        versions=versions(),
        settings=as_config(job.settings),
        confusion=None if multi_label else confusions(before, test.targets),
        confusion_refined=None if multi_label or after is None else confusions(after, test.targets),
        ap_before=per_class_ap(before, test.targets, classes),
        ap_after=None if after is None else per_class_ap(after, test.targets, classes),
        refinement=_refinement_words(evaluated),
        curves=_curves(job, system),
        **_search(job, system),
        stages=job.timings,
        rejected=extraction.rejected,
        examples=example_clips(job, system, extraction, evaluated),
        mlflow=_mlflow(job, system, evaluated, promotion),
    )


def _summary(job: Job, system: System, extraction: Extraction) -> DataSummary:
    return DataSummary(
        name=job.manifest.name,
        fingerprint=job.manifest.fingerprint[:16],
        clips={
            split: sum(clip.video.split == split for clip in extraction.clips)
            for split in ("train", "val", "test")
        },
        classes=job.manifest.classes,
        multi_label=job.manifest.multi_label,
        absent={
            stream: sum(track not in clip.tracks for clip in extraction.clips)
            for stream, track in system.streams.items()
        },
        groups=groups_in_words(job.manifest),
        warnings=job.warnings,
        notes=job.notes,
    )


def _refinement_words(evaluated: Evaluated) -> str:
    choice = evaluated.final.choice
    note = choice["notes"].get(choice["method"])
    words = METHODS[choice["method"]] + (f" ({note})" if note else "")
    return f"{words}: {choice['reason']}"


def _methods(
    job: Job,
    system: System,
    evaluated: Evaluated,
    on_test: Mapping[str, SystemScores],
    test: Table,
) -> list[MethodResult]:
    """One row per method; two for a stream that some test clips lack."""
    known = _ceilings(job, system, evaluated.rows, on_test, test)
    rows = []
    for name, row in evaluated.rows.items():
        if name not in evaluated.figures:
            continue
        figures, (best, share) = evaluated.figures[name], known.get(name, (None, None))
        note = "" if figures.n == figures.n_all else "clips that have the stream"
        result = _method(name, row.label, figures, best, share, classes=len(job.manifest.classes))
        chosen = name == evaluated.final.chosen
        rows.append(
            replace(result, chosen=True, note="chosen") if chosen else replace(result, note=note)
        )
        if note and figures.accuracy_all is not None:
            rows.append(
                MethodResult(
                    name=f"{name}_all",
                    label=row.label,
                    n=figures.n_all,
                    accuracy=figures.accuracy_all,
                    note="all clips; those without the stream count as errors",
                )
            )
    return rows


def _method(
    name: str,
    label: str,
    figures: MethodFigures,
    best: float | None,
    share: float | None,
    *,
    classes: int,
) -> MethodResult:
    measures = figures.measures
    return MethodResult(
        name=name,
        label=label,
        n=figures.n,
        accuracy=measures.get("accuracy"),
        mean_class_accuracy=measures.get("mean_class_accuracy"),
        map=measures.get("map"),
        # With five classes or fewer it is always 100 %.
        hit5=measures.get("hit_at_5") if classes > 5 else None,
        ceiling=best,
        share_of_ceiling=share,
    )


def _ceilings(
    job: Job,
    system: System,
    rows: Mapping[str, Row],
    on_test: Mapping[str, SystemScores],
    test: Table,
) -> dict[str, tuple[float, float]]:
    """Row -> (ceiling, share of it reached); only the demo's ceilings are known."""
    classes = job.manifest.classes
    if job.settings.data is not None or not set(classes) <= set(CLUES):
        return {}
    true = [classes[i] for i in test.targets.classes()]
    found = {}
    for name, row in rows.items():
        if name in on_test:
            clues = _visible(system, row)
            predicted = [classes[i] for i in on_test[name].scores.argmax(1)]
            found[name] = (ceiling(clues), clue_agreement(predicted, true, clues))
    return found


def _visible(system: System, row: Row) -> tuple[str, ...]:
    """The demo's clues that reach a row."""
    tracks = [system.streams[stream] for stream in row.streams]
    ordered = [system.streams[stream] for stream in row.ordered]
    return visible_clues(tracks, ordered)


def _curves(job: Job, system: System) -> dict[str, list[Mapping[str, float]]]:
    """Step -> its history, for the steps that have one."""
    curves: dict[str, list[Mapping[str, float]]] = {}
    for step in system.steps:
        facts = job.results[step.name].facts
        best = facts.get("best_step")
        if facts.get("history"):
            curves[step.name] = [
                {**entry, "kept": 1.0} if entry["step"] == best else entry
                for entry in facts["history"]
            ]
    return curves


def _searching(job: Job, system: System) -> StepResult | None:
    """The step that reported the trials of a search."""
    found = (job.results[step.name] for step in system.steps)
    return next((one for one in found if set(SEARCHED) <= set(one.facts)), None)


def _search(job: Job, system: System) -> dict[str, Any]:
    """The search's trials and the point that was refitted."""
    facts = [job.results[step.name].facts for step in system.steps]
    sparsity = {n: one[n] for one in facts for n in ("zero_rows", "zero_entries") if n in one}
    searched = _searching(job, system)
    if searched is None:
        return {"best": sparsity}
    trials, *best = (searched.facts[name] for name in SEARCHED)
    return {"trials": trials, "best": {**dict(zip(SEARCHED[1:], best, strict=True)), **sparsity}}


def _mlflow(
    job: Job, system: System, evaluated: Evaluated, promotion: Mapping[str, Any]
) -> dict[str, Any]:
    search = _searching(job, system)
    return {
        "run_id": job.run.id,
        "model_version": evaluated.version,
        "promoted": promotion.get("promoted"),
        "reason": promotion.get("reason", ""),
        "ui_command": f"mlflow ui --backend-store-uri {job.tracker.uri}"
        if job.tracker.uri.startswith("sqlite")
        else job.tracker.uri,
        "tensorboard_command": f"tensorboard --logdir {search.storage.path(SEARCH_FOLDER)}"
        if search
        else "",
    }


def machine() -> str:
    """The driver's machine in a line."""
    memory = psutil.virtual_memory().total / 2**30
    text = f"{platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GiB"
    import torch

    if torch.cuda.is_available():
        text += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return text

"""From a system's scores to figures on the test clips and a registered version."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.steps.job import Job
from pipelines.steps.own_code import code_digests
from pipelines.steps.run import run_step
from pipelines.steps.score import REFINED, read_scores
from pipelines.steps.step import Facts, Step, StepResult, System, Work
from pipelines.steps.table import read_table
from pipelines.tracking.provenance import versions
from pipelines.tracking.registry import Evaluation, register
from trainers.evaluation import MethodFigures, SystemScores, evaluate_scores
from trainers.model_files import save
from trainers.predictor import NamedPart, Predictor
from trainers.table import Table

VALIDATION_SCORES = "validation_scores.npz"
"""In the run's folder: what pipelines/refine.py can be tried on."""


@dataclass(frozen=True)
class Evaluated:
    """Everything known about a trained system.

    Args:
        table: all usable clips.
        scores: row -> scores of these clips; ``refined``, which is registered, among them.
        figures: row -> figures on the test clips.
        choice: refinement ``method``, ``reason``, the ``notes`` of each method's fit, and
            ``measures`` on the validation clips where it was chosen by these.
        chosen: row that ``refined`` is equal to.
        ensemble: row of the plain ensemble.
        version: of the registered model.
    """

    table: Table
    scores: Mapping[str, SystemScores]
    figures: Mapping[str, MethodFigures]
    choice: Mapping[str, Any]
    chosen: str
    ensemble: str
    version: str


def evaluate_system(job: Job, system: System, results: Mapping[str, StepResult]) -> Evaluated:
    """Evaluates every row on the test clips; saves and registers the system."""
    result = results[system.output]
    assert job.given is not None
    work = Work(job, system.step(system.output), result.storage, results)
    table = read_table(work, job.given, system.streams).table
    scores = read_scores(result)
    test = table.rows("test")
    part = table.part(test)
    figures = {name: evaluate_scores(one.part(test), part.targets) for name, one in scores.items()}
    if len(table.rows("val")):
        content = validation_file(scores, result.facts["members"], table, job.manifest.classes)
        job.files.write_bytes(VALIDATION_SCORES, content)
    chosen = f"refined_{result.facts['choice']['method']}"
    return Evaluated(
        table=table,
        scores=scores,
        figures=figures,
        choice=result.facts["choice"],
        chosen=chosen if chosen in figures else result.facts["ensemble"],
        ensemble=result.facts["ensemble"],
        version=_register(job, system, results, figures[REFINED], part),
    )


def validation_file(
    scores: Mapping[str, SystemScores], members: list[str], table: Table, classes: tuple[str, ...]
) -> bytes:
    """The ensemble's members on the validation clips, as pipelines/refine.py reads them."""
    rows = table.rows("val")
    held_out = table.part(rows)
    arrays: dict[str, NDArray[Any]] = {}
    for name in members:
        arrays[f"{name}_scores"] = scores[name].scores[rows]
        arrays[f"{name}_present"] = scores[name].present[rows]
    content = io.BytesIO()
    np.savez(
        content,
        labels=held_out.targets.truth(),
        class_names=np.array(classes, dtype=str),
        video_ids=held_out.ids,
        groups=held_out.groups,
        allow_pickle=False,
        **arrays,
    )
    return content.getvalue()


def _register(
    job: Job,
    system: System,
    results: Mapping[str, StepResult],
    figures: MethodFigures,
    test: Table,
) -> str:
    """Saves the system and registers it as the challenger."""
    # Labels, rows and parts of a user's system are in the model, but in no step's fingerprint.
    code = code_digests(job.settings, *(step.load for step in system.steps))
    step = Step(
        name="register",
        run=partial(_save_and_register, system, results, figures, [str(one) for one in test.ids]),
        needs=(system.output,),
        data=[
            job.settings.registry.name,
            job.tracker.uri,
            job.manifest.fingerprint,
            *([code] if code else []),
        ],
        job="evaluate",
        describe=lambda facts: f"{job.settings.registry.name} version {facts['version']}",
    )
    return str(run_step(job, step, results).facts["version"])


def _save_and_register(
    system: System,
    results: Mapping[str, StepResult],
    figures: MethodFigures,
    test: list[str],
    work: Work,
) -> Facts:
    job = work.job
    save(assemble(job, system, results), work.storage)
    videos = {video.id: video for video in job.manifest.videos}
    evaluation = Evaluation(
        metrics=figures.measures,
        videos=[videos[one] for one in test],
        multi_label=job.manifest.multi_label,
    )
    with job.console.stage("register"):
        version = register(
            job.tracker,
            job.run,
            work.storage,
            evaluation,
            job.settings.registry,
            tags={"data": job.manifest.name, "data_fingerprint": job.manifest.fingerprint},
        )
    return {"version": version, "run_id": job.run.id}


def assemble(job: Job, system: System, results: Mapping[str, StepResult]) -> Predictor:
    """The fitted parts as the one object that predicts from a path."""
    parts: list[NamedPart] = []
    for step in system.steps:
        if step.load is not None and step.name in results:
            storage = results[step.name].storage
            parts += step.load(Work(job, step, storage, results))
    return Predictor(
        system=system.name,
        title=system.title,
        classes=job.manifest.classes,
        multi_label=job.manifest.multi_label,
        extract=job.settings.extract,
        streams=dict(system.streams),
        parts=tuple(parts),
        output=REFINED,
        embedding=system.embedding,
        rows={name: row.label for name, row in system.rows.items()},
        facts={
            "data": job.manifest.name,
            "data_fingerprint": job.manifest.fingerprint,
            "versions": versions(),
        },
    )

"""From a system's scores to figures on the test clips and a registered version."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.steps.job import Job
from pipelines.steps.own_code import code_digests
from pipelines.steps.run import run_step
from pipelines.steps.score import FinalScores, read_final_scores
from pipelines.steps.step import Facts, Row, Step, StepResult, System, Work
from pipelines.steps.table import clip_table
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
        final: scores of these clips, and which of them is registered.
        figures: row -> figures on the test clips.
        rows: rows of the report, the chosen one among them.
        version: of the registered model.
    """

    table: Table
    final: FinalScores
    figures: Mapping[str, MethodFigures]
    rows: Mapping[str, Row]
    version: str


def evaluate_system(job: Job, system: System, results: Mapping[str, StepResult]) -> Evaluated:
    """Evaluates every row on the test clips; saves and registers the system.

    Raises:
        ValueError: the system's output left something else than `System` says.
    """
    result = results[system.output]
    assert job.given is not None
    table = clip_table(job.given, system.streams)
    final = read_final_scores(system, result, table)
    test = table.rows("test")
    part = table.part(test)
    figures = {n: evaluate_scores(one.part(test), part.targets) for n, one in final.scores.items()}
    if final.members and len(table.rows("val")):
        content = validation_file(final.scores, final.members, table, job.manifest.classes)
        job.files.write_bytes(VALIDATION_SCORES, content)
    return Evaluated(
        table=table,
        final=final,
        figures=figures,
        rows=shown_rows(system, final),
        version=_register(job, system, results, figures[final.answer], part),
    )


def shown_rows(system: System, final: FinalScores) -> dict[str, Row]:
    """The system's rows; the chosen one is added where the system does not list it."""
    if final.chosen in system.rows:
        return dict(system.rows)
    plain = system.rows.get(final.ensemble, Row(system.title, tuple(system.streams)))
    label = plain.label if final.chosen == final.ensemble else f"{plain.label}, refined"
    return {**system.rows, final.chosen: replace(plain, label=label)}


def validation_file(
    scores: Mapping[str, SystemScores],
    members: Sequence[str],
    table: Table,
    classes: tuple[str, ...],
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
        output=system.answer,
        embedding=system.embedding,
        rows={name: row.label for name, row in system.rows.items()},
        facts={
            "data": job.manifest.name,
            "data_fingerprint": job.manifest.fingerprint,
            "versions": versions(),
        },
    )

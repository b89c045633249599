#!/usr/bin/env python3
"""Job: scores the test clips with every system, writes the report, registers the ensemble.

    pipelines/evaluate.py --data PATH --format FORMAT [any setting]

Does what is missing before it and nothing after it: the new version becomes the registry's
`challenger`, promotion is a job of its own.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start  # goes on in the environment that has Ray
    from pipelines.cli.command_line import read_job  # isort: skip

    start("pipelines.evaluate", lambda: read_job(__doc__ or ""))

import numpy as np
from numpy.typing import NDArray

from actors.storage import Storage
from pipelines.cli.command_line import Asked
from pipelines.data import Manifest
from pipelines.extract import Extraction, extract
from pipelines.steps.caching import Facts, StageResult
from pipelines.steps.job import Job, open_job
from pipelines.steps.scores import collect_scores
from pipelines.tracking.provenance import versions
from pipelines.tracking.registry import Evaluation, register
from pipelines.train import NETWORK, TrainedStream, train
from pipelines.tune import Tuned, few_threads, tune
from trainers.encoders.backbones import StreamNetwork
from trainers.evaluation import (
    MethodFigures,
    Refinements,
    SystemScores,
    ensemble_scores,
    evaluate_scores,
    fit_refinements,
    member_scores,
    refined_scores,
)
from trainers.hybrid import REFINEMENT, Hybrid
from trainers.network_files import load_network
from trainers.refinement.fitted import METHODS, FittedRefinement
from trainers.sequence.recurrent import SequenceNetwork
from trainers.table import Table

VALIDATION_SCORES = "validation_scores.npz"
"""In the run's folder: what pipelines/refine.py can be tried on."""


@dataclass(frozen=True)
class Evaluated:
    """Everything known about the trained systems.

    Args:
        scores: system -> scores of all usable clips; ``hybrid``, every ``refined_METHOD`` and
            ``refined``, the chosen one of these, among them.
        figures: method -> figures on the test clips.
        choice: ``method`` that was chosen, ``reason``, the ``notes`` of each method's fit, and
            ``measures`` on the validation clips where it was chosen by these.
        version: of the registered model.
    """

    scores: Mapping[str, SystemScores]
    figures: Mapping[str, MethodFigures]
    choice: Mapping[str, Any]
    version: str


def evaluate(
    job: Job, extraction: Extraction, trained: Mapping[str, TrainedStream], tuned: Tuned
) -> Evaluated:
    """Scores, joins, refines and evaluates; then saves and registers the ensemble."""
    stage = score_systems(job, trained, tuned)
    scores = read_scores(stage)
    table = tuned.inputs.table
    if len(table.rows("val")):
        content = validation_file(scores, table, job.manifest)
        job.files.write_bytes(VALIDATION_SCORES, content)
    test = table.rows("test")
    figures = {
        name: evaluate_scores(system.part(test), table.targets[test])
        for name, system in scores.items()
    }
    version = _register(job, trained, tuned, stage, figures["refined"])
    return Evaluated(scores, figures, stage.facts["choice"], version)


def score_systems(job: Job, trained: Mapping[str, TrainedStream], tuned: Tuned) -> StageResult:
    """Every system's scores of every usable clip, the refined ensemble's among them."""
    settings, multi_label = job.settings.refinement, job.manifest.multi_label
    inputs, table = tuned.inputs, tuned.inputs.table

    def work(storage: Storage) -> Facts:
        few_threads(table)
        with job.console.stage("evaluate", unit="clips"):
            systems = collect_scores(trained, tuned, multi_label=multi_label)
            systems["hybrid"] = ensemble_scores(systems)
            members = member_scores(systems, table)
            refinements = fit_refinements(
                members.part(members.rows("val")), settings, classes=job.manifest.classes
            )
            systems |= refined_scores(systems["hybrid"], members, refinements)
        _write_scores(storage, systems)
        if refinements.chosen is not None:
            storage.write_bytes(REFINEMENT, refinements.chosen.to_bytes())
        return {"systems": list(systems), "choice": _choice_facts(refinements)}

    key = [
        "every refinement",
        settings,
        tuned.fusion.fingerprint,
        [fitted.lstm.fingerprint for fitted in trained.values() if fitted.lstm],
        {stream: fitted.embed.fingerprint for stream, fitted in trained.items()},
    ]
    return job.stage(
        "evaluate",
        key,
        work,
        items=len(inputs.clips),
        describe=lambda facts: f"refinement: {METHODS[facts['choice']['method']]}",
    )


def _choice_facts(refinements: Refinements) -> Facts:
    choice = refinements.choice
    return {
        "method": choice.name,
        "reason": choice.reason,
        "measures": dict(choice.measures),
        "notes": {name: one.note for name, one in refinements.fitted.items() if one.note},
    }


def validation_file(scores: Mapping[str, SystemScores], table: Table, manifest: Manifest) -> bytes:
    """The ensemble's members on the validation clips, as pipelines/refine.py reads them."""
    members = member_scores(scores, table)
    held_out = members.part(members.rows("val"))
    arrays: dict[str, NDArray] = {}
    for name in members.names:
        arrays[f"{name}_scores"] = held_out.features[name]
        arrays[f"{name}_present"] = held_out.present[name]
    content = io.BytesIO()
    np.savez(
        content,
        labels=held_out.targets.truth(),
        class_names=np.array(manifest.classes, dtype=str),
        video_ids=held_out.ids,
        groups=held_out.groups,
        allow_pickle=False,
        **arrays,
    )
    return content.getvalue()


def _write_scores(storage: Storage, systems: Mapping[str, SystemScores]) -> None:
    import safetensors.numpy

    tensors = {}
    for name, system in systems.items():
        tensors[f"{name}.scores"] = np.ascontiguousarray(system.scores, np.float64)
        tensors[f"{name}.present"] = np.ascontiguousarray(system.present)
    storage.write_bytes("scores.safetensors", safetensors.numpy.save(tensors))


def read_scores(stage: StageResult) -> dict[str, SystemScores]:
    """System -> the scores that `score_systems` wrote."""
    import safetensors.numpy

    tensors = safetensors.numpy.load(stage.storage.read_bytes("scores.safetensors"))
    return {
        name: SystemScores(tensors[f"{name}.scores"], tensors[f"{name}.present"])
        for name in stage.facts["systems"]
    }


def _read_refinement(stage: StageResult) -> FittedRefinement | None:
    if stage.facts["choice"]["method"] == "none" or not stage.storage.exists(REFINEMENT):
        return None
    return FittedRefinement.from_bytes(stage.storage.read_bytes(REFINEMENT))


def _register(
    job: Job,
    trained: Mapping[str, TrainedStream],
    tuned: Tuned,
    scored: StageResult,
    figures: MethodFigures,
) -> str:
    """Saves the ensemble and registers it as the challenger."""

    def work(storage: Storage) -> Facts:
        assemble(job, trained, tuned, _read_refinement(scored)).save(storage)
        evaluation = Evaluation(
            metrics=figures.measures,
            videos=[clip.video for clip in tuned.inputs.clips if clip.video.split == "test"],
            multi_label=job.manifest.multi_label,
        )
        with job.console.stage("register"):
            version = register(
                job.tracker,
                job.run,
                storage,
                evaluation,
                job.settings.registry,
                tags={"data": job.manifest.name, "data_fingerprint": job.manifest.fingerprint},
            )
        return {"version": version, "run_id": job.run.id}

    name = job.settings.registry.name
    result = job.stage(
        "register",
        [scored.fingerprint, job.settings.registry.name, job.tracker.uri, job.manifest.fingerprint],
        work,
        describe=lambda facts: f"{name} version {facts['version']}",
    )
    return str(result.facts["version"])


def assemble(
    job: Job,
    trained: Mapping[str, TrainedStream],
    tuned: Tuned,
    refinement: FittedRefinement | None,
) -> Hybrid:
    """The trained parts as the one object that predicts from a path."""
    settings = job.settings
    return Hybrid(
        classes=job.manifest.classes,
        multi_label=job.manifest.multi_label,
        extract=settings.extract,
        stream_settings={stream: settings.stream(stream) for stream in trained},
        embedding=settings.embedding,
        cnns={s: cast(StreamNetwork, _network(fitted.cnn)) for s, fitted in trained.items()},
        lstms={
            s: cast(SequenceNetwork, _network(fitted.lstm))
            for s, fitted in trained.items()
            if fitted.lstm is not None
        },
        fusion=tuned.network(),
        refinement=refinement,
        refinement_settings=settings.refinement,
        facts={
            "data": job.manifest.name,
            "data_fingerprint": job.manifest.fingerprint,
            "versions": versions(),
        },
    )


def _network(stage: StageResult) -> StreamNetwork | SequenceNetwork:
    return load_network(stage.storage, NETWORK)[0]


def main(asked: Asked) -> None:
    """Runs this step alone, after what it needs."""
    from pipelines.report.gather import report

    with open_job(asked.settings, asked.manifest) as job:
        extraction = extract(job)
        trained = train(job, extraction)
        tuned = tune(job, extraction, trained)
        evaluated = evaluate(job, extraction, trained, tuned)
        report(job, extraction, trained, tuned, evaluated)

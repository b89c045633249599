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
from actors.streams import TRACK_OF
from pipelines.cli.command_line import Asked
from pipelines.data import Manifest
from pipelines.extract import Extraction, extract
from pipelines.steps.caching import Facts, StageResult
from pipelines.steps.inputs import FusionInputs
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
    fit_refinements,
    hybrid_scores,
    judge,
    members,
    refined_systems,
)
from trainers.model_files import save
from trainers.network_files import load_network
from trainers.parts import EmbedPart, FusionPart, JoinPart, ScorePart, SequencePart
from trainers.predictor import NamedPart, Predictor
from trainers.refinement.fitted import METHODS, FittedRefinement
from trainers.sequence.recurrent import SequenceNetwork

REFINEMENT = "refinement.safetensors"
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
    """Scores, joins, refines and judges; then saves and registers the ensemble."""
    stage = score_systems(job, trained, tuned)
    scores = read_scores(stage)
    if len(tuned.inputs.rows("val")):
        content = validation_file(scores, tuned.inputs, job.manifest)
        job.files.write_bytes(VALIDATION_SCORES, content)
    test = tuned.inputs.rows("test")
    targets = tuned.inputs.targets.numpy()[test]
    multi_label = job.manifest.multi_label
    figures = {
        name: judge(system.part(test), targets, multi_label=multi_label)
        for name, system in scores.items()
    }
    version = _register(job, trained, tuned, stage, figures["refined"])
    return Evaluated(scores, figures, stage.facts["choice"], version)


def score_systems(job: Job, trained: Mapping[str, TrainedStream], tuned: Tuned) -> StageResult:
    """Every system's scores of every usable clip, the refined ensemble's among them."""
    settings, multi_label = job.settings.refinement, job.manifest.multi_label
    inputs = tuned.inputs

    def work(storage: Storage) -> Facts:
        few_threads(inputs.features)
        with job.console.stage("evaluate", unit="clips"):
            systems = collect_scores(trained, tuned, multi_label=multi_label)
            systems["hybrid"] = hybrid_scores(systems)
            held_out = inputs.rows("val")
            refinements = fit_refinements(
                members({name: one.part(held_out) for name, one in systems.items()}),
                _truth(inputs, held_out, multi_label=multi_label),
                inputs.groups[held_out],
                settings,
                classes=job.manifest.classes,
                multi_label=multi_label,
            )
            systems |= refined_systems(systems, refinements)
        _write_scores(storage, systems)
        if refinements.chosen is not None:
            storage.write_bytes(REFINEMENT, refinements.chosen.to_bytes())
        return {"systems": list(systems), "choice": _told(refinements)}

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


def _truth(inputs: FusionInputs, rows: NDArray[np.intp], *, multi_label: bool) -> NDArray:
    targets = inputs.targets.numpy()[rows]
    return targets.astype(bool) if multi_label else targets.argmax(1)


def _told(refinements: Refinements) -> Facts:
    choice = refinements.choice
    return {
        "method": choice.name,
        "reason": choice.reason,
        "measures": dict(choice.measures),
        "notes": {name: one.note for name, one in refinements.fitted.items() if one.note},
    }


def validation_file(
    scores: Mapping[str, SystemScores], inputs: FusionInputs, manifest: Manifest
) -> bytes:
    """The ensemble's members on the validation clips, as pipelines/refine.py reads them."""
    rows = inputs.rows("val")
    arrays: dict[str, NDArray] = {}
    for name in members(scores):
        arrays[f"{name}_scores"] = scores[name].scores[rows]
        arrays[f"{name}_present"] = scores[name].present[rows]
    content = io.BytesIO()
    np.savez(
        content,
        labels=_truth(inputs, rows, multi_label=manifest.multi_label),
        class_names=np.array(manifest.classes, dtype=str),
        video_ids=np.array([inputs.clips[row].video.id for row in rows], dtype=str),
        groups=inputs.groups[rows],
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
        save(assemble(job, trained, tuned, _read_refinement(scored)), storage)
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
) -> Predictor:
    """The trained parts as the one object that predicts from a path."""
    settings = job.settings
    return Predictor(
        system="hybrid",
        title="Hybrid",
        classes=job.manifest.classes,
        multi_label=job.manifest.multi_label,
        extract=settings.extract,
        streams={stream: TRACK_OF[stream] for stream in trained},
        parts=(*_stream_parts(job, trained), *_joined_parts(trained, tuned, refinement)),
        output="refined" if refinement else "hybrid",
        embedding="fusion",
        facts={
            "data": job.manifest.name,
            "data_fingerprint": job.manifest.fingerprint,
            "versions": versions(),
        },
    )


def _stream_parts(job: Job, trained: Mapping[str, TrainedStream]) -> list[NamedPart]:
    multi_label, parts = job.manifest.multi_label, []
    for stream, fitted in trained.items():
        embed = EmbedPart(
            stream,
            cast(StreamNetwork, _network(fitted.cnn)),
            job.settings.stream(stream),
            job.settings.embedding,
            multi_label=multi_label,
        )
        needs = (f"{stream}_embed",)
        parts += [
            NamedPart(f"{stream}_embed", embed),
            NamedPart(f"{stream}_cnn", ScorePart(), needs),
        ]
        if fitted.lstm is not None:
            network = cast(SequenceNetwork, _network(fitted.lstm))
            lstm = SequencePart(network, multi_label=multi_label)
            parts.append(NamedPart(f"{stream}_lstm", lstm, needs))
    return parts


def _joined_parts(
    trained: Mapping[str, TrainedStream], tuned: Tuned, refinement: FittedRefinement | None
) -> list[NamedPart]:
    inputs = {stream: f"{stream}_embed" for stream in trained}
    lstms = [f"{stream}_lstm" for stream, fitted in trained.items() if fitted.lstm is not None]
    members = (*lstms, "fusion")
    parts = [
        NamedPart("fusion", FusionPart(tuned.network(), inputs), tuple(inputs.values())),
        NamedPart("hybrid", JoinPart(members), members),
    ]
    if refinement is not None:
        parts.append(NamedPart("refined", JoinPart(members, refinement), members))
    return parts


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

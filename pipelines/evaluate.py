#!/usr/bin/env python3
"""Job: scores the test clips with every system, writes the report, registers the ensemble.

    pipelines/evaluate.py --data PATH --format FORMAT [any setting]

Does what is missing before it and nothing after it: the new version becomes the registry's
`challenger`, promotion is a job of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import pipelines.launch  # noqa: F401  goes on in the environment that has Ray

import numpy as np
from numpy.typing import NDArray

from actors.storage import Storage
from pipelines.extract import Extraction, extract
from pipelines.job import Job, open_job
from pipelines.launch import main_guard
from pipelines.provenance import versions
from pipelines.registry import Evaluation, register
from pipelines.scores import collect_scores
from pipelines.settings import parse_settings
from pipelines.stages import Facts, StageResult
from pipelines.train import NETWORK, TrainedStream, train
from pipelines.tune import Tuned, few_threads, tune
from trainers.evaluation import (
    MethodFigures,
    SystemScores,
    fit_refinement,
    hybrid_scores,
    judge,
    refined_scores,
)
from trainers.hybrid import Hybrid
from trainers.networks.backbones import StreamNetwork
from trainers.networks.recurrent import SequenceNetwork
from trainers.networks.weights import load_network


@dataclass(frozen=True)
class Evaluated:
    """Everything known about the trained systems.

    Args:
        scores: system -> scores of all usable clips; ``hybrid`` and ``refined`` among them.
        figures: method -> figures on the test clips.
        refinement: (C, C) R.
        version: of the registered model.
    """

    scores: Mapping[str, SystemScores]
    figures: Mapping[str, MethodFigures]
    refinement: NDArray[np.float64]
    version: str


def evaluate(
    job: Job, extraction: Extraction, trained: Mapping[str, TrainedStream], tuned: Tuned
) -> Evaluated:
    """Scores, joins, refines and judges; then saves and registers the ensemble."""
    stage = score_systems(job, trained, tuned)
    scores = read_scores(stage)
    refinement = np.array(stage.facts["refinement"])
    test = tuned.inputs.rows("test")
    targets = tuned.inputs.targets.numpy()[test]
    multi_label = job.manifest.multi_label
    figures = {
        name: judge(system.part(test), targets, multi_label=multi_label)
        for name, system in scores.items()
    }
    version = _register(job, trained, tuned, stage, figures["refined"])
    return Evaluated(scores, figures, refinement, version)


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
            targets = inputs.targets.numpy()[held_out]
            truth = targets if multi_label else targets.argmax(1)
            refinement = fit_refinement(
                systems["hybrid"].scores[held_out], truth, settings, inputs.targets.shape[1]
            )
            systems["refined"] = refined_scores(
                systems["hybrid"], refinement, settings, multi_label=multi_label
            )
        _write_scores(storage, systems)
        return {"systems": list(systems), "refinement": refinement.tolist()}

    key = [
        settings,
        tuned.fusion.fingerprint,
        [fitted.lstm.fingerprint for fitted in trained.values() if fitted.lstm],
        {stream: fitted.embed.fingerprint for stream, fitted in trained.items()},
    ]
    return job.stage("evaluate", key, work, items=len(inputs.clips))


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


def _register(
    job: Job,
    trained: Mapping[str, TrainedStream],
    tuned: Tuned,
    scored: StageResult,
    figures: MethodFigures,
) -> str:
    """Saves the ensemble and registers it as the challenger."""

    def work(storage: Storage) -> Facts:
        assemble(job, trained, tuned, np.array(scored.facts["refinement"])).save(storage)
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
    refinement: NDArray[np.float64],
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
        refinement=None if settings.refinement.method == "none" else refinement,
        refinement_settings=settings.refinement,
        facts={
            "data": job.manifest.name,
            "data_fingerprint": job.manifest.fingerprint,
            "versions": versions(),
        },
    )


def _network(stage: StageResult) -> StreamNetwork | SequenceNetwork:
    return load_network(stage.storage, NETWORK)[0]


def main() -> None:
    """Runs this step alone, after what it needs."""
    from pipelines.reporting import report

    with open_job(parse_settings(__doc__ or "")) as job:
        extraction = extract(job)
        trained = train(job, extraction)
        tuned = tune(job, extraction, trained)
        evaluated = evaluate(job, extraction, trained, tuned)
        report(job, extraction, trained, tuned, evaluated)


if __name__ == "__main__":
    main_guard(main)

#!/usr/bin/env python3
"""Job: searches lambda2 and lambda3 of the fusion network, then fits it on all training clips.

    pipelines/tune.py --data PATH --format FORMAT [any setting]

Does what is missing before it (extraction, CNNs, LSTMs) and nothing after it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start  # goes on in the environment that has Ray
    from pipelines.cli.command_line import read_job  # isort: skip

    start("pipelines.tune", lambda: read_job(__doc__ or ""))

import torch

from actors.storage import Storage
from pipelines.cli.command_line import Asked
from pipelines.extract import Extraction, extract
from pipelines.steps.caching import Facts, StageResult
from pipelines.steps.inputs import EmbeddedClips, read_inputs
from pipelines.steps.job import Job, open_job
from pipelines.train import TrainedStream, train
from trainers.fusion import models
from trainers.fusion.contract import FusionModel
from trainers.fusion.network import FusionNetwork
from trainers.settings import FusionSettings
from trainers.table import Table

FUSION = "fusion.safetensors"
SEARCH_FOLDER = "tune"
SMALL = 10_000_000
"""Numbers in all features together; beyond, several threads pay."""


@dataclass(frozen=True)
class Tuned:
    """The fitted fusion network and how its regularizers were found."""

    inputs: EmbeddedClips
    search: StageResult
    fusion: StageResult

    def fused(self) -> FusionModel:
        return models.from_bytes(self.fusion.storage.read_bytes(FUSION), where=FUSION)

    def network(self) -> FusionNetwork:
        model = self.fused()
        assert isinstance(model, FusionNetwork)
        return model


def tune(job: Job, extraction: Extraction, trained: Mapping[str, TrainedStream]) -> Tuned:
    """Cross-validates by group on the training clips, refits the best point on all of them."""
    inputs = read_inputs(job.manifest, extraction.clips, trained)
    embedded = {stream: fitted.embed.fingerprint for stream, fitted in trained.items()}
    search = _search(job, inputs, embedded) if job.settings.search.trials else _no_search(job)
    best = {name: search.facts[name] for name in ("lambda2", "lambda3")}
    fusion = _refit(job, inputs, embedded, replace(job.settings.fusion, **best))
    return Tuned(inputs, search, fusion)


def _no_search(job: Job) -> StageResult:
    """Takes the settings' own lambdas, as a search without trials."""
    chosen = job.settings.fusion
    facts: Facts = {
        "lambda2": chosen.lambda2,
        "lambda3": chosen.lambda3,
        "score": None,
        "trials": [],
    }
    return StageResult("search", "none", job.storage, facts, 0.0, cached=True)


def _search(job: Job, inputs: EmbeddedClips, embedded: dict[str, str]) -> StageResult:
    settings = job.settings.search

    def work(storage: Storage) -> Facts:
        from tuning.ray_search import search

        job.board()
        train = inputs.table.part(inputs.table.rows("train"))
        with job.console.stage("search", total=settings.trials, unit="trials") as progress:
            result = search(
                train,
                settings,
                fusion=job.settings.fusion,
                storage=storage,
                name=SEARCH_FOLDER,
                seed=job.settings.seed,
                progress=lambda done, total, trial: progress.update(done, total),
            )
        _record_trials(job, result.trials, result.curves)
        return asdict(result)

    def describe(facts: Facts) -> str:
        return (
            f"best of {len(facts['trials'])}: lambda2 {facts['lambda2']:.2g}, "
            f"lambda3 {facts['lambda3']:.2g}, cross-validated score {facts['score']:.3f}"
        )

    key = [settings, job.settings.fusion, embedded, _rows_key(job, inputs), job.settings.seed]
    return job.stage("search", key, work, items=settings.trials, unit="trials", describe=describe)


def few_threads(table: Table) -> None:
    """Small products are slower on many threads, above all beside Ray's own processes."""
    numbers = sum(value.size for value in table.features.values())
    torch.set_num_threads(1 if numbers < SMALL else min(os.cpu_count() or 1, 8))


def _rows_key(job: Job, inputs: EmbeddedClips) -> list[Any]:
    return [
        job.manifest.classes,
        [(c.artifact, c.video.labels, c.video.split, c.video.group) for c in inputs.clips],
    ]


def _record_trials(
    job: Job, trials: list[dict[str, Any]], curves: Mapping[str, list[dict[str, float]]]
) -> None:
    """One child run per trial, tagged, with its curve; from the driver, which alone writes."""
    for trial in trials:
        with job.tracker.child(job.run, f"search trial {trial['trial']}") as run:
            run.set_tags({"multiclue.kind": "trial", "multiclue.state": trial["state"]})
            run.log_params({k: trial[k] for k in ("lambda2", "lambda3")})
            curve = curves.get(trial["trial"], [])
            run.log_curve([{"step": int(r.get("epochs", i)), **r} for i, r in enumerate(curve)])


def _refit(
    job: Job, inputs: EmbeddedClips, embedded: dict[str, str], settings: FusionSettings
) -> StageResult:
    def work(storage: Storage) -> Facts:
        history: list[dict[str, float]] = []
        with (
            job.tracker.child(job.run, "fusion") as run,
            job.console.stage("fusion", total=settings.max_epochs, unit="epochs") as progress,
        ):

            def listen(epoch: int, measures: Mapping[str, float]) -> None:
                history.append({"step": epoch, **measures})
                progress.update(epoch)

            table = inputs.table
            validation = table.part(table.rows("val"))
            few_threads(table)
            model = models.fit(
                table.part(table.rows("train")),
                settings,
                seed=job.settings.seed,
                validation=validation if len(validation) else None,
                on_epoch=listen,
            )
            storage.write_bytes(FUSION, models.to_bytes(model))
            sparsity = model.sparsity() if isinstance(model, FusionNetwork) else {}
            run.log_params(settings)
            run.log_curve(history)
            run.log_metrics(sparsity)
        return {"history": history, **sparsity}

    def describe(facts: Facts) -> str:
        if "zero_rows" not in facts:
            return settings.model
        return (
            f"{facts['zero_rows']:.0%} of the fused neurons' rows and "
            f"{facts['zero_entries']:.0%} of the weights are zero"
        )

    key = [settings, embedded, _rows_key(job, inputs), job.settings.seed]
    return job.stage("fusion", key, work, describe=describe)


def main(asked: Asked) -> None:
    """Runs this step alone, after what it needs."""
    with open_job(asked.settings, asked.manifest) as job:
        extraction = extract(job)
        tune(job, extraction, train(job, extraction))

"""Steps of the fusion: the search for its regularizers, and its fit on all training clips."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from actors.storage import Storage
from pipelines.steps.cluster import RAY_IMPORTS
from pipelines.steps.given import Given
from pipelines.steps.job import Job
from pipelines.steps.step import Facts, Step, Work
from pipelines.steps.table import read_table
from trainers.fusion import models
from trainers.fusion.contract import FusionModel
from trainers.parts import FusionPart
from trainers.predictor import NamedPart
from trainers.settings import FusionSettings
from trainers.table import Table
from tuning.settings import SearchSettings

FUSION = "fusion.safetensors"
SEARCH_FOLDER = "tune"
SEARCHED = ("lambda2", "lambda3")
SMALL = 10_000_000
"""Numbers in all features together; beyond, several threads pay."""


def search(
    streams: Mapping[str, str], settings: SearchSettings, fusion: FusionSettings, given: Given
) -> Step:
    """``search``: Ray Tune searches the fusion's lambda2 and lambda3 by cross-validation."""
    return Step(
        name="search",
        run=partial(_search, streams, settings, fusion, given),
        settings=settings,
        needs=tuple(f"{stream}.embed" for stream in streams),
        data={**given.table(test=False), "fusion": fusion},
        job="tune",
        items=settings.trials,
        unit="trials",
        describe=_best_point,
    )


def fuse(
    streams: Mapping[str, str],
    settings: FusionSettings,
    given: Given,
    *,
    searched: bool,
    name: str = "fusion",
) -> Step:
    """``fusion``: fits the fusion on all training clips.

    Args:
        name: of the step and of its part.
        searched: whether the step ``search`` has chosen lambda2 and lambda3.
    """
    embeds = tuple(f"{stream}.embed" for stream in streams)
    return Step(
        name=name,
        run=partial(_fuse, streams, settings, given),
        settings=settings,
        needs=(*embeds, "search") if searched else embeds,
        data=given.table(test=False),
        load=partial(_load, streams),
        job="tune",
        describe=_sparsity,
    )


def fused_settings(work: Work, settings: FusionSettings) -> FusionSettings:
    """The settings with the lambdas that the search chose, where there was one."""
    if "search" not in work.results:
        return settings
    found = work.results["search"].facts
    return replace(settings, **{name: found[name] for name in SEARCHED})


def load_fused(storage: Storage) -> FusionModel:
    """The fitted fusion in the folder of the step that `fuse` makes."""
    return models.from_bytes(storage.read_bytes(FUSION), where=storage.path(FUSION))


def few_threads(table: Table) -> None:
    """Small products are slower on many threads, above all beside Ray's own processes."""
    numbers = sum(value.size for value in table.features.values())
    torch.set_num_threads(1 if numbers < SMALL else min(os.cpu_count() or 1, 8))


def _search(
    streams: Mapping[str, str],
    settings: SearchSettings,
    fusion: FusionSettings,
    given: Given,
    work: Work,
) -> Facts:
    with RAY_IMPORTS:
        from tuning.ray_search import search as run_search

    work.job.board()
    table = read_table(work, given, streams).table
    with work.job.console.stage("search", total=settings.trials, unit="trials") as progress:
        result = run_search(
            table.part(table.rows("train")),
            settings,
            fusion=fusion,
            storage=work.storage,
            name=SEARCH_FOLDER,
            seed=given.seed,
            progress=lambda done, total, trial: progress.update(done, total),
        )
    _record_trials(work.job, result.trials, result.curves)
    return asdict(result)


def _best_point(facts: Facts) -> str:
    return (
        f"best of {len(facts['trials'])}: lambda2 {facts['lambda2']:.2g}, "
        f"lambda3 {facts['lambda3']:.2g}, cross-validated score {facts['score']:.3f}"
    )


def _record_trials(
    job: Job, trials: Sequence[dict[str, Any]], curves: Mapping[str, list[dict[str, float]]]
) -> None:
    """One child run per trial, tagged, with its curve; from the driver, which alone writes."""
    for trial in trials:
        with job.tracker.child(job.run, f"search trial {trial['trial']}") as run:
            run.set_tags({"multiclue.kind": "trial", "multiclue.state": trial["state"]})
            run.log_params({name: trial[name] for name in SEARCHED})
            curve = curves.get(trial["trial"], [])
            run.log_curve([{"step": int(r.get("epochs", i)), **r} for i, r in enumerate(curve)])


def _fuse(streams: Mapping[str, str], settings: FusionSettings, given: Given, work: Work) -> Facts:
    history: list[dict[str, float]] = []
    with work.job.console.stage(
        work.step.name, total=settings.max_epochs, unit="epochs"
    ) as progress:

        def listen(epoch: int, measures: Mapping[str, float]) -> None:
            history.append({"step": epoch, **measures})
            progress.update(epoch)

        table = read_table(work, given, streams).table
        validation = table.part(table.rows("val"))
        few_threads(table)
        model = models.fit(
            table.part(table.rows("train")),
            fused_settings(work, settings),
            seed=given.seed,
            validation=validation if len(validation) else None,
            on_epoch=listen,
        )
    work.storage.write_bytes(FUSION, models.to_bytes(model))
    sparsity: dict[str, float] = getattr(model, "sparsity", dict)()
    return {"history": history, "metrics": sparsity, **sparsity}


def _sparsity(facts: Facts) -> str:
    if "zero_rows" not in facts:
        return ""
    return (
        f"{facts['zero_rows']:.0%} of the fused neurons' rows and "
        f"{facts['zero_entries']:.0%} of the weights are zero"
    )


def _load(streams: Mapping[str, str], work: Work) -> tuple[NamedPart, ...]:
    inputs = {stream: f"{stream}.embed" for stream in streams}
    part = FusionPart(load_fused(work.storage), inputs)
    return (NamedPart(work.step.name, part, tuple(inputs.values())),)

"""Steps that fit a network by Ray Train: a stream's encoder, or its sequence model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from actors.storage import Storage
from pipelines.steps.cluster import RAY_IMPORTS
from pipelines.steps.fingerprint import weights_stamp
from pipelines.steps.given import Given
from pipelines.steps.job import Job
from pipelines.steps.step import Facts, Step, Work
from trainers.encoders.task import EncoderTask
from trainers.fit.loop import FitTask
from trainers.network_files import load_network, save_network
from trainers.parts import SequencePart
from trainers.predictor import NamedPart
from trainers.sequence.task import SequenceTask
from trainers.settings import EmbeddingSettings, OptimizerSettings, SequenceSettings
from trainers.streams.settings import StreamSettings

if TYPE_CHECKING:
    from trainers.fit.ray_fit import FitResources
    from trainers.network_files import Network

NETWORK = "network.safetensors"

THREADS_PER_FIT = 4
"""Beyond this many CPUs a single fit gains little from more threads."""


def fit_encoder(stream: str, settings: StreamSettings, given: Given) -> Step:
    """``STREAM.fit``: fits a stream's encoder on samples of its clips."""
    clips = given.with_track(settings.track)
    return Step(
        name=f"{stream}.fit",
        run=partial(_fit_encoder, stream, settings, given),
        # What is done with the fitted encoder does not change it.
        settings=replace(settings, embed=EmbeddingSettings(), sequence=SequenceSettings()),
        data={
            **given.learned(settings.track),
            "stream": stream,
            "weights": weights_stamp(settings.weights),
        },
        items=len(clips),
        describe=best_step,
    )


def fit_sequence(stream: str, settings: StreamSettings, given: Given, *, row: str) -> Step:
    """``STREAM.sequence``: fits a sequence model on a stream's embedded clips.

    Args:
        row: the report's row, and the part, that its scores belong to.
    """
    return Step(
        name=f"{stream}.sequence",
        run=partial(_fit_sequence, stream, settings, given),
        settings=settings.sequence,
        needs=(f"{stream}.embed",),
        data=given.learned(settings.track),
        load=partial(_load_sequence, stream, row, given.multi_label),
        items=len(given.with_track(settings.track)),
        describe=best_step,
    )


def _fit_encoder(stream: str, settings: StreamSettings, given: Given, work: Work) -> Facts:
    make_task = partial(
        EncoderTask,
        stream,
        settings,
        given.examples(given.with_track(settings.track), given.artifacts),
        n_classes=given.n_classes,
        multi_label=given.multi_label,
        seed=given.seed,
    )
    return fit(work, make_task, settings.fit, seed=given.seed)


def _fit_sequence(stream: str, settings: StreamSettings, given: Given, work: Work) -> Facts:
    embeddings = work.results[f"{stream}.embed"].storage
    make_task = partial(
        SequenceTask,
        stream,
        settings.sequence,
        given.examples(given.with_track(settings.track), embeddings),
        n_classes=given.n_classes,
        multi_label=given.multi_label,
        seed=given.seed,
    )
    return fit(work, make_task, settings.sequence.fit, seed=given.seed)


def _load_sequence(stream: str, row: str, multi_label: bool, work: Work) -> tuple[NamedPart, ...]:
    network, _ = load_network(work.storage, NETWORK)
    part = SequencePart(cast(Any, network), multi_label=multi_label)
    return (NamedPart(row, part, (f"{stream}.embed",)),)


def best_step(facts: Facts) -> str:
    """The step whose weights are kept, for the console."""
    kept = [entry for entry in facts["history"] if entry["step"] == facts["best_step"]]
    if not kept or "loss" not in kept[0]:
        return f"no validation clips; step {facts['best_step']} is kept"
    return f"validation score {kept[0]['score']:.3f} at step {facts['best_step']}"


def save_fitted(task: FitTask, storage: Storage) -> None:
    """Writes the fitted network where later steps look for it."""
    save_network(storage, NETWORK, cast("Network", task.model))


def fit(
    work: Work, make_task: Callable[[], FitTask], settings: OptimizerSettings, *, seed: int
) -> Facts:
    """Fits a task with Ray Train and shows its progress.

    Returns:
        ``history``, ``best_step``, ``waited_s`` and ``step_s`` of the fit.
    """
    with RAY_IMPORTS:
        from trainers.fit.ray_fit import FitSpec, fit_with_ray

    spec = FitSpec(work.step.name, make_task, save_fitted, settings, seed, work.storage)
    with _progress(work, settings) as report:
        return fit_with_ray(spec, fit_resources(work.job), report, work.job.fit_pool())


@contextmanager
def _progress(work: Work, settings: OptimizerSettings) -> Iterator[Any]:
    """Shows the fit's steps on the console and its curve in MLflow while it runs."""
    job, name = work.job, work.step.name
    with job.console.stage(name, total=settings.max_steps, unit="steps") as progress:

        def listen(done: int, total: int, metrics: dict[str, float]) -> None:
            detail = " ".join(f"{k} {v:.3f}" for k, v in metrics.items() if k in ("loss", "score"))
            progress.update(done, total, detail)
            if "score" in metrics and work.run is not None:
                work.run.log_curve([{"step": done, **metrics}])

        if job.settings.resources.fit_workers == 0:
            yield listen
        else:
            yield job.board().reporter(name, listen)


def fit_resources(job: Job) -> FitResources:
    """Divides the cluster among as many fits as run side by side."""
    with RAY_IMPORTS:
        from trainers.fit.ray_fit import FitResources

    wanted = job.settings.resources
    if wanted.fit_workers == 0:
        return FitResources(workers=0)
    import ray

    have = ray.cluster_resources()
    side_by_side = max(len(job.settings.streams), 1)
    share = have.get("CPU", 1.0) / (side_by_side * wanted.fit_workers)
    cpus = wanted.fit_cpus or min(share if share < 1 else int(share), THREADS_PER_FIT)
    gpus = wanted.fit_gpus if have.get("GPU") else 0.0
    return FitResources(
        workers=wanted.fit_workers,
        cpus=round(cpus - 0.005, 2) if cpus < 1 else cpus,
        # NCCL refuses two workers of one fit on the same card.
        gpus=1.0 if gpus and wanted.fit_workers > 1 else gpus,
    )

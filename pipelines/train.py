#!/usr/bin/env python3
"""Job: fits every stream's CNN side by side, embeds the clips, fits both LSTMs.

    pipelines/train.py --data PATH --format FORMAT [any setting]

Does what is missing before it (extraction) and nothing after it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start  # goes on in the environment that has Ray
    from pipelines.cli.command_line import read_job  # isort: skip

    start("pipelines.train", lambda: read_job(__doc__ or ""))

from actors.storage import Storage
from pipelines.cli.command_line import Asked
from pipelines.cli.settings import SEQUENCE_STREAMS
from pipelines.extract import ExtractedClip, Extraction, extract
from pipelines.steps.caching import Facts, StageResult, weights_stamp
from pipelines.steps.job import Job, open_job
from trainers.embedding import ClipEmbedder
from trainers.encoders.task import StreamTask
from trainers.fit.examples import Example
from trainers.fit.loop import FitTask
from trainers.network_files import save_network
from trainers.sequence.task import SequenceTask
from trainers.settings import OptimizerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainers.encoders.backbones import StreamNetwork
    from trainers.fit.ray_fit import FitResources
    from trainers.sequence.recurrent import SequenceNetwork

NETWORK = "network.safetensors"

THREADS_PER_FIT = 4
"""Beyond this many CPUs a single fit gains little from more threads."""


@dataclass(frozen=True)
class TrainedStream:
    """One stream after training.

    Args:
        clips: those that have the stream.
        embeddings: folder of embedding files, named like the clips' artifacts.
        cnn: stage with the network; `lstm` likewise, where the stream has one.
    """

    stream: str
    clips: tuple[ExtractedClip, ...]
    cnn: StageResult
    embed: StageResult
    lstm: StageResult | None

    @property
    def embeddings(self) -> Storage:
        return self.embed.storage


def train(job: Job, extraction: Extraction) -> dict[str, TrainedStream]:
    """Fits all streams at the same time; a stream goes on to its LSTM as soon as it is embedded."""
    streams = job.settings.chosen_streams
    pool = ThreadPoolExecutor(len(streams), thread_name_prefix="stream")
    futures = {s: pool.submit(_train_stream, job, extraction, s) for s in streams}
    try:
        for future in as_completed(futures.values()):
            future.result()
    finally:
        # A failure is told at once, not when the other streams are done days later: leaving the
        # job shuts Ray down, and with it their fits, which go on from their checkpoints next time.
        pool.shutdown(wait=False, cancel_futures=True)
    job.end_fits()
    return {stream: future.result() for stream, future in futures.items()}


def _train_stream(job: Job, extraction: Extraction, stream: str) -> TrainedStream:
    clips = tuple(clip for clip in extraction.clips if stream in clip.streams)
    cnn = _fit_cnn(job, extraction, stream, clips)
    embed = _embed(job, extraction, stream, clips, cnn)
    lstm = _fit_lstm(job, stream, clips, embed) if stream in SEQUENCE_STREAMS else None
    return TrainedStream(stream, clips, cnn, embed, lstm)


def examples(job: Job, clips: Sequence[ExtractedClip], place: Storage) -> tuple[Example, ...]:
    """What a task learns from; test clips are left out, so that no fit can ever see one."""
    return tuple(
        Example(
            id=clip.video.id,
            artifact=place.path(clip.artifact),
            targets=job.manifest.targets(clip.video),
            split=clip.video.split,
        )
        for clip in clips
        if clip.video.split != "test"
    )


def _fit_cnn(
    job: Job, extraction: Extraction, stream: str, clips: Sequence[ExtractedClip]
) -> StageResult:
    settings = job.settings.stream(stream)
    make_task = partial(
        StreamTask,
        stream,
        settings,
        examples(job, clips, extraction.storage),
        n_classes=len(job.manifest.classes),
        multi_label=job.manifest.multi_label,
        seed=job.settings.seed,
    )
    learned = _learned(job, clips), weights_stamp(settings.network.weights)
    key = [settings, stream, extraction.fingerprint, learned, job.settings.seed]
    return _fit(job, f"{stream} cnn", key, make_task, settings.optimizer)


def _fit_lstm(
    job: Job, stream: str, clips: Sequence[ExtractedClip], embed: StageResult
) -> StageResult:
    settings = job.settings.sequence(stream)
    make_task = partial(
        SequenceTask,
        stream,
        settings,
        examples(job, clips, embed.storage),
        n_classes=len(job.manifest.classes),
        multi_label=job.manifest.multi_label,
        seed=job.settings.seed,
    )
    key = [settings, embed.fingerprint, _learned(job, clips), job.settings.seed]
    return _fit(job, f"{stream} lstm", key, make_task, settings.optimizer)


def _learned(job: Job, clips: Sequence[ExtractedClip]) -> list[Any]:
    """What a fit sees of the data; test clips are no part of it."""
    seen = [c for c in clips if c.video.split != "test"]
    return [job.manifest.classes, [(c.artifact, c.video.labels, c.video.split) for c in seen]]


def save_fitted(task: FitTask, storage: Storage) -> None:
    """Writes the fitted network where the next stage looks for it."""
    save_network(storage, NETWORK, cast("StreamNetwork | SequenceNetwork", task.model))


def _fit(
    job: Job, name: str, key: Any, make_task: Any, optimizer: OptimizerSettings
) -> StageResult:
    def work(storage: Storage) -> Facts:
        from trainers.fit.ray_fit import FitSpec, fit_with_ray

        spec = FitSpec(name, make_task, save_fitted, optimizer, job.settings.seed, storage)
        with job.tracker.child(job.run, name) as run, _watch(job, name, run, optimizer) as say:
            run.log_params({"optimizer": optimizer, "stage": name})
            result = fit_with_ray(spec, _resources(job), say, job.fit_pool())
            run.log_curve(result["history"])
        return result

    def describe(facts: Facts) -> str:
        kept = [h for h in facts["history"] if h["step"] == facts["best_step"]]
        if not kept or "loss" not in kept[0]:
            return f"no validation clips; step {facts['best_step']} is kept"
        return f"validation score {kept[0]['score']:.3f} at step {facts['best_step']}"

    return job.stage(name.replace(" ", "_"), key, work, items=None, describe=describe)


@contextmanager
def _watch(job: Job, name: str, run: Any, optimizer: OptimizerSettings) -> Iterator[Any]:
    """Shows the fit's steps on the console and its curve in MLflow while it runs."""
    with job.console.stage(name, total=optimizer.max_steps, unit="steps") as progress:

        def listen(done: int, total: int, metrics: dict[str, float]) -> None:
            detail = " ".join(f"{k} {v:.3f}" for k, v in metrics.items() if k in ("loss", "score"))
            progress.update(done, total, detail)
            if "score" in metrics:
                run.log_curve([{"step": done, **metrics}])

        if job.settings.resources.fit_workers == 0:
            yield listen
        else:
            yield job.board().reporter(name, listen)


def _resources(job: Job) -> FitResources:
    """Shares the cluster out among as many fits as run side by side."""
    from trainers.fit.ray_fit import FitResources

    wanted = job.settings.resources
    if wanted.fit_workers == 0:
        return FitResources(workers=0)
    import ray

    have = ray.cluster_resources()
    side_by_side = len(job.settings.chosen_streams)
    share = have.get("CPU", 1.0) / (side_by_side * wanted.fit_workers)
    cpus = wanted.fit_cpus or min(share if share < 1 else int(share), THREADS_PER_FIT)
    gpus = wanted.fit_gpus if have.get("GPU") else 0.0
    return FitResources(
        workers=wanted.fit_workers,
        cpus=round(cpus - 0.005, 2) if cpus < 1 else cpus,
        # NCCL refuses two workers of one fit on the same card.
        gpus=1.0 if gpus and wanted.fit_workers > 1 else gpus,
    )


def _embed(
    job: Job,
    extraction: Extraction,
    stream: str,
    clips: Sequence[ExtractedClip],
    cnn: StageResult,
) -> StageResult:
    settings, wanted = job.settings.stream(stream), job.settings.embedding

    def work(storage: Storage) -> Facts:
        from actors.pool.run import PoolResources, run_pool

        job.board()
        resources = job.settings.resources
        rows = [
            {
                "id": clip.video.id,
                "name": clip.artifact,
                "artifact": extraction.storage.path(clip.artifact),
            }
            for clip in clips
        ]
        embedder = partial(
            ClipEmbedder,
            cnn.storage,
            NETWORK,
            stream,
            settings,
            wanted,
            storage,
            multi_label=job.manifest.multi_label,
        )
        name = f"{stream} embed"
        with job.console.stage(name, total=len(rows), unit="clips") as progress:
            outcomes = run_pool(
                rows,
                embedder,
                storage=storage,
                resources=PoolResources.for_cluster(
                    max_actors=resources.embed_actors,
                    gpus_per_actor=resources.embed_gpus,
                    side_by_side=len(job.settings.chosen_streams),
                ),
                on_row=lambda done, total, outcome: progress.update(done, total),
            )
        bad = [outcome for outcome in outcomes if not outcome["ok"]]
        if bad:
            raise RuntimeError(
                f"{len(bad)} artifacts can't be embedded, such as {bad[0]['id']}: "
                f"{bad[0]['message']}; remove {extraction.storage.path()} to extract them anew"
            )
        return {"clips": len(rows)}

    key = [cnn.fingerprint, wanted, [clip.artifact for clip in clips]]
    return job.stage(f"{stream}_embed", key, work, items=len(clips))


def main(asked: Asked) -> None:
    """Runs this step alone, after what it needs."""
    with open_job(asked.settings, asked.manifest) as job:
        train(job, extract(job))

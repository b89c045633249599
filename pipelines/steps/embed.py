"""The step that turns a stream's clips into feature sequences, shared out by Ray Data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from actors.storage import Storage
from pipelines.steps.cluster import RAY_IMPORTS
from pipelines.steps.extract import ExtractedClip
from pipelines.steps.fingerprint import weights_stamp
from pipelines.steps.fit import NETWORK
from pipelines.steps.given import Given
from pipelines.steps.step import Facts, Step, Work
from trainers.embedding import ClipEmbedder
from trainers.encoders.encoder import Encoder
from trainers.encoders.factory import build_encoder
from trainers.encoders.inference import Precision, has_fast_bf16
from trainers.network_files import load_network, save_network
from trainers.parts import EmbedPart, ScorePart
from trainers.predictor import NamedPart
from trainers.settings import OptimizerSettings, SequenceSettings
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings


def embed(stream: str, settings: StreamSettings, given: Given, *, row: str | None = None) -> Step:
    """``STREAM.embed``: features along each clip, and the encoder's own scores.

    Args:
        row: the report's row, and the part, that the encoder's own scores belong to; None for a
            frozen encoder, which has none.
    """
    clips, settings = given.with_track(settings.track), settled(settings)
    lasting = replace(settings, sequence=SequenceSettings())
    if settings.frozen:
        lasting = replace(lasting, fit=OptimizerSettings())
    return Step(
        name=f"{stream}.embed",
        run=partial(_embed, stream, settings, given),
        settings=lasting,
        needs=() if settings.frozen else (f"{stream}.fit",),
        data={
            "extraction": given.extraction,
            "clips": [clip.artifact for clip in clips],
            "multi_label": given.multi_label,
            "weights": weights_stamp(settings.weights),
            "seed": given.seed,
        },
        load=partial(_load, stream, settings, given, row),
        items=len(clips),
    )


def settled(settings: StreamSettings) -> StreamSettings:
    """The settings with the precision that ``auto`` stands for on this machine.

    All workers and the registered model then compute in the same type, and the fingerprint says
    which; another machine's ``auto`` may be another step.
    """
    if settings.embed.precision != "auto":
        return settings
    chosen: Precision = "bf16" if has_fast_bf16() else "channels_last"
    return replace(settings, embed=replace(settings.embed, precision=chosen))


def encoder_folder(stream: str, settings: StreamSettings, given: Given, work: Work) -> Storage:
    """Folder of the stream's encoder: the fit's, or for a frozen one this step's own.

    A frozen encoder is written there once, so that all workers and the registered model have the
    same weights, whatever its source offers later.
    """
    if not settings.frozen:
        return work.results[f"{stream}.fit"].storage
    folder = work.storage.join("encoder")
    if not folder.exists(NETWORK):
        encoder = build_encoder(
            settings.encoder_settings,
            in_channels=make_stream(stream, settings).channels,
            n_classes=None,
            seed=given.seed,
        )
        save_network(folder, NETWORK, encoder)
    return folder


def _embed(stream: str, settings: StreamSettings, given: Given, work: Work) -> Facts:
    with RAY_IMPORTS:
        from actors.pool.run import PoolResources, run_pool

    job, clips = work.job, given.with_track(settings.track)
    job.board()
    rows = _rows(clips, given)
    embedder = partial(
        ClipEmbedder,
        encoder_folder(stream, settings, given, work),
        NETWORK,
        stream,
        settings,
        work.storage,
        multi_label=given.multi_label,
    )
    resources = job.settings.resources
    with job.console.stage(work.step.name, total=len(rows), unit="clips") as progress:
        outcomes = run_pool(
            rows,
            embedder,
            storage=work.storage,
            resources=PoolResources.for_cluster(
                max_actors=resources.embed_actors,
                gpus_per_actor=resources.embed_gpus,
                side_by_side=max(len(job.settings.streams), 1),
            ),
            on_row=lambda done, total, outcome: progress.update(done, total),
        )
    bad = [outcome for outcome in outcomes if not outcome["ok"]]
    if bad:
        raise RuntimeError(_message(bad, given, work))
    return {"clips": len(rows)}


def _message(bad: Sequence[Mapping[str, Any]], given: Given, work: Work) -> str:
    return (
        f"{work.step.name}: {len(bad)} of the artifacts can't be embedded, such as that of "
        f"{bad[0]['id']!r}: {bad[0]['message']}; remove the folder {work.storage.path()}, where "
        "this outcome is kept, and, if the artifacts are damaged, the folder "
        f"{given.artifacts.path()}, so that all clips are extracted again; then give the same "
        "command"
    )


def _rows(clips: Sequence[ExtractedClip], given: Given) -> list[dict[str, Any]]:
    return [
        {
            "id": clip.video.id,
            "name": clip.artifact,
            "artifact": given.artifacts.path(clip.artifact),
        }
        for clip in clips
    ]


def _load(
    stream: str, settings: StreamSettings, given: Given, row: str | None, work: Work
) -> tuple[NamedPart, ...]:
    encoder, _ = load_network(encoder_folder(stream, settings, given, work), NETWORK)
    part = EmbedPart(
        make_stream(stream, settings), cast(Encoder, encoder), multi_label=given.multi_label
    )
    name = f"{stream}.embed"
    own = [] if row is None else [NamedPart(row, ScorePart(), (name,))]
    return (NamedPart(name, part), *own)

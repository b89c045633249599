"""Reads the embedded clips as the table that fusion and everything after it work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from actors.storage import Storage
from pipelines.steps.extract import ExtractedClip
from pipelines.steps.given import Given
from pipelines.steps.step import Work
from trainers.embedding import Embedding
from trainers.table import Table
from trainers.targets import Targets

READERS = 8


@dataclass(frozen=True)
class Embedded:
    """All clips with their embeddings.

    Args:
        table: features are the streams' features averaged over time.
        scores: stream -> (N, C) float32 of the encoder's own scores, zeros where absent; streams
            with a frozen encoder have none.
    """

    table: Table
    scores: Mapping[str, NDArray[np.float32]]


def read_table(work: Work, given: Given, streams: Mapping[str, str]) -> Embedded:
    """Reads every embedding once per job; clips that have none of the streams are left out.

    Args:
        work: has the results of the steps ``STREAM.embed``.
        streams: stream -> track.

    Raises:
        ValueError: its step needs no step ``STREAM.embed`` of one of the streams.
    """
    gone = [stream for stream in streams if f"{stream}.embed" not in work.results]
    if gone:
        raise ValueError(
            f"step {work.step.name!r} reads the embeddings of {', '.join(gone)}, and does not need "
            f"{gone[0]}.embed; add it to the step's `needs`"
        )
    embeds = {stream: work.results[f"{stream}.embed"] for stream in streams}
    key = ("table", *(result.fingerprint for result in embeds.values()))
    folders = {stream: result.storage for stream, result in embeds.items()}
    return work.job.once(key, lambda: _read(given, streams, folders))


def clip_table(given: Given, streams: Mapping[str, str]) -> Table:
    """The clips of `read_table`, in its order, without features.

    Args:
        streams: stream -> track.
    """
    return _table(_usable(given, streams), given)


def _usable(given: Given, streams: Mapping[str, str]) -> list[ExtractedClip]:
    return [clip for clip in given.clips if any(t in clip.tracks for t in streams.values())]


def _table(clips: Sequence[ExtractedClip], given: Given) -> Table:
    return Table(
        features={},
        present={},
        targets=Targets.of(
            [given.manifest.targets(clip.video) for clip in clips],
            given.n_classes,
            multi_label=given.multi_label,
        ),
        groups=np.array([clip.video.group for clip in clips], dtype=str),
        splits=np.array([clip.video.split for clip in clips], dtype=str),
        ids=np.array([clip.video.id for clip in clips], dtype=str),
    )


def _read(given: Given, streams: Mapping[str, str], folders: Mapping[str, Storage]) -> Embedded:
    kept = _usable(given, streams)
    features, scores, present = {}, {}, {}
    for stream, track in streams.items():
        there = np.array([track in clip.tracks for clip in kept])
        names = [clip.artifact for clip in kept if track in clip.tracks]
        means, own = read_embeddings(folders[stream], names)
        features[stream] = _spread(means, there)
        if own is not None:
            scores[stream] = _spread(own, there)
        present[stream] = there
    return Embedded(replace(_table(kept, given), features=features, present=present), scores)


def _spread(values: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rows of zeros where a clip is absent."""
    rows = np.zeros((len(there), values.shape[1]), np.float32)
    rows[there] = values
    return rows


def read_embeddings(
    storage: Storage, names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """(N, D) features averaged over time and (N, C) scores of the named embedding files.

    The scores are None where the encoder has none.
    """

    def read(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        embedding = Embedding.from_bytes(storage.read_bytes(name))
        scores = embedding.scores
        return embedding.features.numpy().mean(0), None if scores is None else scores.numpy()

    with ThreadPoolExecutor(READERS) as pool:
        pairs = list(pool.map(read, names))
    scores = [own for _, own in pairs if own is not None]
    return np.stack([mean for mean, _ in pairs]), np.stack(scores) if scores else None

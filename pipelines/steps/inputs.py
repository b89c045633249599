"""Reads the embedded clips back as arrays for the fusion network and everything after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from actors.storage import Storage
from pipelines.data import Manifest
from pipelines.extract import ExtractedClip
from pipelines.train import TrainedStream
from trainers.embedding import Embedding
from trainers.table import Table
from trainers.targets import Targets

READERS = 8


@dataclass(frozen=True)
class EmbeddedClips:
    """All usable clips, in one order.

    Args:
        clips: N clips.
        table: their features, averaged over time.
        cnn_scores: the CNNs' scores, averaged over samples.
    """

    clips: tuple[ExtractedClip, ...]
    table: Table
    cnn_scores: Table


def read_inputs(
    manifest: Manifest,
    clips: Sequence[ExtractedClip],
    trained: Mapping[str, TrainedStream],
) -> EmbeddedClips:
    """Reads every embedding once; clips that have none of the streams are left out."""
    kept = tuple(clip for clip in clips if any(s in clip.streams for s in trained))
    features, scores, present = {}, {}, {}
    for stream, fitted in trained.items():
        there = np.array([stream in clip.streams for clip in kept])
        names = [clip.artifact for clip in kept if stream in clip.streams]
        mean, cnn = read_embeddings(fitted.embeddings, names)
        features[stream] = np.zeros((len(kept), mean.shape[1]), np.float32)
        features[stream][there] = mean
        scores[stream] = np.zeros((len(kept), cnn.shape[1]), np.float32)
        scores[stream][there] = cnn
        present[stream] = there
    table = Table.of(
        features,
        present,
        Targets.of(
            [manifest.targets(clip.video) for clip in kept],
            len(manifest.classes),
            multi_label=manifest.multi_label,
        ),
        groups=np.array([clip.video.group for clip in kept]),
        splits=np.array([clip.video.split for clip in kept]),
        ids=np.array([clip.video.id for clip in kept]),
    )
    return EmbeddedClips(kept, table, replace(table, features=scores))


def read_embeddings(
    storage: Storage, names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, D) features averaged over time and (N, C) scores of the named embedding files."""

    def read(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        embedding = Embedding.from_bytes(storage.read_bytes(name))
        return embedding.features.numpy().mean(0), embedding.scores.numpy()

    with ThreadPoolExecutor(READERS) as pool:
        pairs = list(pool.map(read, names))
    return np.stack([m for m, _ in pairs]), np.stack([s for _, s in pairs])

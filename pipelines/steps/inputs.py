"""Reads the embedded clips back as arrays for the fusion network and everything after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.storage import Storage
from pipelines.data import Manifest
from pipelines.extract import ExtractedClip
from pipelines.train import TrainedStream
from trainers.embedding import Embedding

READERS = 8


@dataclass(frozen=True)
class FusionInputs:
    """All usable clips, in one order.

    Args:
        clips: N clips.
        features: stream -> (N, D) float32, fc6 averaged over time; zero where absent.
        cnn_scores: stream -> (N, C) float32, averaged over 25 samples; zero where absent.
        present: stream -> (N,) bool.
        targets: (N, C) float32 of zeros and ones.
        groups: (N,) str.
        splits: (N,) str, ``train``, ``val`` or ``test``.
    """

    clips: tuple[ExtractedClip, ...]
    features: Mapping[str, Tensor]
    cnn_scores: Mapping[str, NDArray[np.float32]]
    present: Mapping[str, Tensor]
    targets: Tensor
    groups: NDArray[np.str_]
    splits: NDArray[np.str_]

    def rows(self, split: str) -> NDArray[np.intp]:
        return np.flatnonzero(self.splits == split)

    def part(self, rows: NDArray[np.intp]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Features, presence and targets of some clips, as the fusion network takes them."""
        index = torch.from_numpy(rows)
        return (
            {name: value[index] for name, value in self.features.items()},
            {name: value[index] for name, value in self.present.items()},
            self.targets[index],
        )


def read_inputs(
    manifest: Manifest,
    clips: Sequence[ExtractedClip],
    trained: Mapping[str, TrainedStream],
) -> FusionInputs:
    """Reads every embedding once; clips that have none of the streams are left out."""
    kept = tuple(clip for clip in clips if any(s in clip.streams for s in trained))
    features, scores, present = {}, {}, {}
    for stream, fitted in trained.items():
        there = np.array([stream in clip.streams for clip in kept])
        names = [clip.artifact for clip in kept if stream in clip.streams]
        mean, cnn = read_embeddings(fitted.embeddings, names)
        features[stream] = torch.zeros(len(kept), mean.shape[1])
        features[stream][torch.from_numpy(there)] = torch.from_numpy(mean)
        scores[stream] = np.zeros((len(kept), cnn.shape[1]), np.float32)
        scores[stream][there] = cnn
        present[stream] = torch.from_numpy(there)
    targets = torch.zeros(len(kept), len(manifest.classes))
    for row, clip in enumerate(kept):
        targets[row, list(manifest.targets(clip.video))] = 1.0
    return FusionInputs(
        clips=kept,
        features=features,
        cnn_scores=scores,
        present=present,
        targets=targets,
        groups=np.array([clip.video.group for clip in kept]),
        splits=np.array([clip.video.split for clip in kept]),
    )


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

"""A fusion of your own: closeness to the mean of each class, summed over the streams."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from trainers.fusion.contract import Floats, FusionModel, Vectors
from trainers.settings import FusionSettings
from trainers.table import Table


class NearestMean(FusionModel):
    """Probabilities fall with the squared distances to the classes' means, stream -> (C, D)."""

    def __init__(self, means: Vectors) -> None:
        self.means, self.widths = means, {name: mean.shape[1] for name, mean in means.items()}
        self.n_classes, self.multi_label = len(next(iter(means.values()))), False

    def scores_and_embeddings(self, features: Vectors, present: Vectors) -> tuple[Floats, Floats]:
        """(N, C) probabilities and (N, D) joined features, zeros for absent streams."""
        apart = {n: ((features[n][:, None] - self.means[n]) ** 2).mean(2) for n in self.means}
        total = np.stack([apart[n] * present[n][:, None] for n in apart]).sum(0)
        weights = np.exp(total.min(1, keepdims=True) - total)
        joined = np.concatenate([features[n] for n in self.means], axis=1)
        return weights / weights.sum(1, keepdims=True), joined

    def to_bytes(self) -> bytes:
        return safetensors.numpy.save(dict(self.means))

    @classmethod
    def from_bytes(cls, content: bytes) -> NearestMean:
        return cls(safetensors.numpy.load(content))


def nearest_mean(table: Table, settings: FusionSettings, **options: object) -> NearestMean:
    """``fusion: {model: "examples.nearest_mean:nearest_mean"}``; options: seed, validation."""
    labels = table.targets.dense()  # features of absent clips are zero, and not counted
    counts = {name: np.maximum(labels.T @ there, 1) for name, there in table.present.items()}
    return NearestMean({n: labels.T @ x / counts[n][:, None] for n, x in table.features.items()})

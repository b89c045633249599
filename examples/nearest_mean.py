"""A fusion of your own: closeness to the mean of each class, summed over the streams."""

import numpy as np
import safetensors.numpy

from actors.errors import UserError
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
        return weights / weights.sum(1, keepdims=True), np.hstack([features[n] for n in self.means])

    def to_bytes(self) -> bytes:
        return safetensors.numpy.save(dict(self.means))

    @classmethod
    def from_bytes(cls, content: bytes) -> "NearestMean":
        return cls(safetensors.numpy.load(content))


def nearest_mean(table: Table, settings: FusionSettings, **options: object) -> NearestMean:
    """``fusion: {model: "examples.nearest_mean:nearest_mean"}``; options: seed, validation."""
    if table.targets.multi_label:
        raise UserError("nearest_mean needs one class per clip: set fusion.model to regularized")
    labels = table.targets.dense() + np.float32(1e-9)  # a class without clips: the mean of all
    counts = {n: np.maximum(labels.T @ there, 1e-9) for n, there in table.present.items()}
    return NearestMean({n: labels.T @ x / counts[n][:, None] for n, x in table.features.items()})

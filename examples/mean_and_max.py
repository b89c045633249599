"""A sequence model of your own: mean and maximum over time, then a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.sequence.model import SequenceModel
from trainers.settings import SequenceSettings


class MeanAndMax(SequenceModel):
    """The clip's embedding is the mean beside the maximum of its valid steps."""

    def __init__(self, feature_dim: int, n_classes: int) -> None:
        super().__init__(feature_dim)
        self.classifier = nn.Linear(2 * feature_dim, n_classes)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[None, Tensor, Tensor]:
        """No step logits; logits (N, C) and embeddings (N, 2F) of the clips."""
        x = self.standardize(features)
        steps = torch.arange(x.shape[1], device=x.device)
        valid = (steps < lengths.to(x.device)[:, None])[..., None]
        mean = torch.where(valid, x, 0).sum(1) / valid.sum(1)
        most = torch.where(valid, x, -torch.inf).amax(1)
        embedding = torch.cat([mean, most], 1)
        return None, self.classifier(embedding), embedding


def mean_and_max(settings: SequenceSettings, feature_dim: int, n_classes: int) -> SequenceModel:
    """``sequence: {model: "examples.mean_and_max:mean_and_max"}``."""
    return MeanAndMax(feature_dim, n_classes)

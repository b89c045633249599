"""The contract of sequence models: from a clip's features to logits and an embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SequenceModel(nn.Module):
    """Base of sequence models. A subclass implements `forward`.

    Args:
        feature_dim: width of the features, F.

    Attributes:
        mean, scale: float32 (F,), by which `standardize` shifts and scales features; taken from
            the training clips when a fit begins.
        description: plain values to build the model again; `build_sequence_model` fills them in.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.description: dict[str, Any] = {}
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))

    def standardize(self, features: Tensor) -> Tensor:
        """Features (N, T, F) shifted and scaled by the training clips' moments."""
        return (features - self.mean) * self.scale

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Logits and embeddings of clips. Nothing may depend on what stands in the padding.

        Args:
            features: float32 (N, T, F), padded at the ends of sequences.
            lengths: int64 (N,), valid steps of each sequence, at least 1.

        Returns:
            Logits (N, T, C) of every step, whose mean loss over the valid steps is minimized, or
            None to minimize the loss of the clips' logits; logits (N, C) of the clips, which are
            scored; embeddings (N, E) of the clips.
        """
        raise NotImplementedError

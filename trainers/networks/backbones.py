"""Convolutional networks of the single streams, by name."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import UserError


@dataclass(frozen=True)
class NetworkSettings:
    """Which network, and what it starts from; the defaults are the spatial stream's."""

    backbone: str = "vgg19"
    """vgg19, cnn_m, vgg_small, cnn_m_small, or any classification model of torchvision."""
    weights: str | None = "imagenet"
    """Where weights come from: imagenet (torchvision's, from its cache), the path of a
    .safetensors or .pt file, or none."""
    dropout: float = 0.5
    """Share of units dropped after each fully connected layer in training."""
    feature_dim: int | None = None
    """Width of fc6, whose output is the feature, in the project's own families; null is their own
    (cnn_m 4096, the small ones 128)."""
    hidden_dim: int | None = None
    """Width of fc7 in cnn_m; null is 4096."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), not {self.dropout}")
        for name in ("feature_dim", "hidden_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")

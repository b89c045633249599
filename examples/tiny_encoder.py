"""An encoder of your own: two convolutions, their mean over the picture, and a classifier."""

from __future__ import annotations

from torch import nn

from trainers.encoders.encoder import Encoder
from trainers.encoders.specification import InputSpecification
from trainers.settings import EncoderSettings


def tiny_encoder(
    settings: EncoderSettings, in_channels: int, n_classes: int | None, seed: int
) -> Encoder:
    """``encoder: examples.tiny_encoder:tiny_encoder``; without classes (frozen) features alone."""
    width = settings.feature_dim or 32
    body = nn.Sequential(
        nn.Conv2d(in_channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    tail = None if n_classes is None else nn.Linear(width, n_classes)
    specification = InputSpecification(channels=in_channels, size=32)
    return Encoder(body, tail, specification=specification, feature_dim=width)

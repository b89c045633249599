"""A small network of VGG's family (Simonyan and Zisserman, 2015): 3x3 kernels, pools of two.

VGG-19 itself is torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.encoders.cnn_m import initialize


def vgg_small_body(in_channels: int, *, feature_dim: int = 128) -> nn.Sequential:
    """Three blocks of 3x3 convolutions and fc6, for pictures of about 64x64.

    In training it takes two samples or more at a time, for its batch norm.

    Returns:
        (N, in_channels, h, w) -> (N, feature_dim), not negative.
    """
    layers: list[nn.Module] = []
    width_before = in_channels
    for width in (24, 48, 64):
        layers += [
            nn.Conv2d(width_before, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]
        width_before = width
    layers += [
        # Largest values are far from zero: without their norm some seeds do not start learning.
        *(MeanAndLargest(), nn.BatchNorm1d(2 * 64)),
        *(nn.Linear(2 * 64, feature_dim), nn.ReLU(inplace=True)),
    ]
    return initialize(nn.Sequential(*layers))


class MeanAndLargest(nn.Module):
    """(N, C, h, w) -> (N, 2C): each map's mean and largest value.

    What a small frame shows may stand anywhere. With few clips a network that keeps the places
    (VGG's flattened maps) learns them instead: it needs several times the steps.
    """

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)


def small_tail(n_classes: int, *, feature_dim: int = 128, dropout: float = 0.5) -> nn.Sequential:
    """From fc6's output to logits."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(feature_dim, n_classes))

"""CNN-M (Chatfield et al., Return of the Devil in the Details, 2014), and a small one like it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d


class CrossChannelNorm(nn.LocalResponseNorm):
    """Local response normalization, fast on bfloat16 on a CPU.

    There the sums over neighboring channels are a 1x1 convolution by a banded matrix. PyTorch pools
    in three dimensions, in float32, which takes most of CNN-M's time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.requires_grad:
            return super().forward(x)
        places = torch.arange(x.shape[1])
        apart = places[None] - places[:, None]
        band = (apart >= -(self.size // 2)) & (apart <= (self.size - 1) // 2)
        weight = (band * (self.alpha / self.size)).to(x.dtype)[..., None, None]
        bias = torch.full((len(places),), self.k, dtype=x.dtype)
        divisor = conv2d(x * x, weight, bias)
        if self.beta != 0.75:
            return x * divisor.pow(-self.beta)
        root = divisor.rsqrt()
        return x * root * root.sqrt()


def cnn_m_body(in_channels: int, *, feature_dim: int = 4096) -> nn.Sequential:
    """CNN-M up to fc6: (N, in_channels, 224, 224) -> (N, feature_dim), not negative.

    The published pooled map is 6x6 at 224x224 (pools round up, as in Caffe); other input sizes are
    pooled to it, as torchvision does for VGG.
    """

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    def norm() -> nn.LocalResponseNorm:
        return CrossChannelNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    layers: list[nn.Module] = [
        *(nn.Conv2d(in_channels, 96, 7, stride=2), nn.ReLU(inplace=True), norm(), pool()),
        *(nn.Conv2d(96, 256, 5, stride=2, padding=1), nn.ReLU(inplace=True), norm(), pool()),
        *(nn.Conv2d(256, 512, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(inplace=True), pool()),
        *(nn.AdaptiveAvgPool2d(6), nn.Flatten()),
        *(nn.Linear(512 * 6 * 6, feature_dim), nn.ReLU(inplace=True)),
    ]
    return initialize(nn.Sequential(*layers))


def cnn_m_tail(
    n_classes: int, *, feature_dim: int = 4096, hidden_dim: int = 4096, dropout: float = 0.5
) -> nn.Sequential:
    """From fc6's output to logits: dropout, fc7, dropout, classifier."""
    return initialize(
        nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(feature_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, n_classes),
        )
    )


def cnn_m_small_body(in_channels: int, *, feature_dim: int = 128) -> nn.Sequential:
    """CNN-M's shape (large strided kernels first) for pictures of about 64x64.

    Batch norm stands in for local response norm: it trains in a tenth of the steps. The last maps
    are kept as 3x3 means: where something moves tells one waving arm from two.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, 24, 5, stride=2, padding=2, bias=False),
        *(nn.BatchNorm2d(24), nn.ReLU(inplace=True)),
        nn.Conv2d(24, 48, 3, padding=1, bias=False),
        *(nn.BatchNorm2d(48), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Conv2d(48, 64, 3, padding=1, bias=False),
        *(nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(3), nn.Flatten()),
        *(nn.Linear(64 * 9, feature_dim), nn.ReLU(inplace=True)),
    ]
    return initialize(nn.Sequential(*layers))


def initialize(layers: nn.Sequential) -> nn.Sequential:
    """He's normal initialization, biases zero; without it a deep network does not start."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return layers

"""What an encoder expects of its inputs; it travels with the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class InputSpecification:
    """Size and normalization of an encoder's inputs.

    The encoder is called with float32 (N, channels, size, size), ``(sample - mean) / std`` of
    samples in 0 to 255.
    """

    channels: int = 3
    """Input channels."""
    size: int | None = 224
    """Side in pixels of the square that the encoder takes; None: any."""
    mean: tuple[float, ...] | None = None
    """Per channel, of values in 0 to 255; None: the stream normalizes its samples its own way."""
    std: tuple[float, ...] | None = None
    """Per channel, of values in 0 to 255; None where `mean` is None."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pictures are resized."""
    fit: Literal["crop", "squeeze"] = "crop"
    """crop: a square is cut out of the picture; squeeze: the whole picture is resized to it."""

"""Streams of single frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from actors.tracks import FRAMES
from trainers.encoders.specification import IMAGENET_MEAN, IMAGENET_STD
from trainers.streams.clips import Media
from trainers.streams.pictures import PictureStream
from trainers.streams.stream import Preview, metadata_of, standardize


class Frames(PictureStream):
    """One RGB frame is a sample: uint8 (3, H, W), normalized as ImageNet's pixels."""

    track = FRAMES

    @property
    def channels(self) -> int:
        return 3

    def count_positions(self, clip: Media) -> int:
        return clip.n_frames

    def cut(self, clip: Media, positions: Sequence[int]) -> Tensor:
        return clip.frames(positions)

    def draw_augmentation(
        self, rng: np.random.Generator, n_clips: int, per_clip: int
    ) -> NDArray[np.float64] | None:
        """Factors of the three colors, (n_clips, per_clip, 3), 1 on average."""
        if not self.settings.color_jitter:
            return None
        return 1 + self.settings.color_jitter * (2 * rng.random((n_clips, per_clip, 3)) - 1)

    def augment(self, samples: Tensor, draws: Tensor) -> Tensor:
        return (samples * draws[:, :, None, None]).clamp_(max=255)

    def normalize_own(self, samples: Tensor) -> Tensor:
        return standardize(samples, IMAGENET_MEAN, IMAGENET_STD)

    def positions_per_second(self, clip: Media) -> float:
        metadata = metadata_of(clip)
        return float(metadata.get("fps") or 1.0) / metadata.get("frame_every", 1)

    def preview(self, clip: Media, count: int = 1) -> Preview:
        """Evenly spread frames."""
        shown = super().preview(clip, count)
        return Preview("pictures", shown.values, "frames")

"""Streams of windows of a spectrogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from actors.tracks import SOUND
from trainers.encoders.specification import InputSpecification
from trainers.streams.clips import Media
from trainers.streams.stream import ANY_SIZE, Preview, Stream


class Spectrograms(Stream):
    """A window of the spectrogram is a sample: float32 (1, bands, columns), as it was extracted.

    A soundtrack shorter than the window is repeated from its start.
    """

    track = SOUND

    @property
    def channels(self) -> int:
        return 1

    def count_positions(self, clip: Media) -> int:
        spectrogram = clip.spectrogram()
        if spectrogram is None or spectrogram.shape[1] == 0:
            return 0
        return max(spectrogram.shape[1] - self._window(clip) + 1, 1)

    def cut(self, clip: Media, positions: Sequence[int]) -> Tensor:
        spectrogram = _sound_of(clip)
        window = self._window(clip)
        if spectrogram.shape[1] < window:
            spectrogram = spectrogram.repeat(1, -(-window // spectrogram.shape[1]))
        return torch.stack([spectrogram[None, :, p : p + window] for p in positions])

    def resize(self, samples: Tensor, specification: InputSpecification = ANY_SIZE) -> Tensor:
        """(n, 1, side, side) where there is a side, else the window as it is."""
        side = self.side(specification)
        if side is None:
            return samples
        return interpolate(samples, size=(side, side), mode="bilinear", antialias=True)

    def normalize_own(self, samples: Tensor) -> Tensor:
        return samples

    def positions_per_second(self, clip: Media) -> float:
        return float(clip.spectrogram_rate or 1.0)

    def preview(self, clip: Media, count: int = 1) -> Preview:
        """The whole spectrogram."""
        return Preview("heat", np.asarray(_sound_of(clip)), "spectrogram")

    def _window(self, clip: Media) -> int:
        """Columns of a sample."""
        assert clip.spectrogram_rate is not None
        return max(round(self.settings.window_seconds * clip.spectrogram_rate), 1)


def _sound_of(clip: Media) -> Tensor:
    spectrogram = clip.spectrogram()
    assert spectrogram is not None, "clips without sound are left out before"
    return spectrogram

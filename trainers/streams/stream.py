"""A stream: a named input of a system, with how samples are cut from a clip's track."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.media.sampling import uniform_positions
from trainers.encoders.specification import InputSpecification
from trainers.streams.clips import Media
from trainers.streams.settings import StreamSettings

ANY_SIZE = InputSpecification(size=None)
"""What an encoder expects that takes samples of any size, normalized the stream's own way."""

Places = Sequence[tuple[float, float]]


class Stream:
    """Base of the kinds of streams; `trainers.streams.kinds` lists them.

    A kind says which `track` it reads and overrides `channels`, `count_positions`, `cut`,
    `positions_per_second` and `normalize_own`; what it does not override is right for samples
    that are neither cropped, mirrored nor augmented.

    Methods that take a `specification` follow it where the settings leave a choice; without one
    samples keep their size and are normalized the stream's own way.

    Args:
        name: the stream's name in its system.
        settings: the stream's settings.
    """

    track: str
    """Track that the kind reads: frames, flow or sound."""

    needs_side = False
    """Whether samples of different clips differ in size, so that the encoder's input needs a side
    to cut or resize them to."""

    def __init__(self, name: str, settings: StreamSettings) -> None:
        self.name = name
        self.settings = settings

    @property
    def channels(self) -> int:
        """Channels of a sample."""
        raise NotImplementedError

    def count_positions(self, clip: Media) -> int:
        """Number of positions at which a sample can be cut: 0 where the clip lacks the track, at
        least 1 where it has the track."""
        raise NotImplementedError

    def cut(self, clip: Media, positions: Sequence[int]) -> Tensor:
        """Whole samples of one clip, not yet cropped or normalized.

        Args:
            clip: a clip that has the track.
            positions: each at least 0 and below `count_positions`.

        Returns:
            (n, channels, H, W), uint8 or float32.
        """
        raise NotImplementedError

    def positions_per_second(self, clip: Media) -> float:
        """Positions per second of the clip."""
        raise NotImplementedError

    def normalize_own(self, samples: Tensor) -> Tensor:
        """Normalization where the encoder's specification has none: float32 (n, C, h, w)."""
        return samples.float()

    def side(self, specification: InputSpecification = ANY_SIZE) -> int | None:
        """Side in pixels of the encoder's input: the crop of the settings, or the encoder's own."""
        return self.settings.crop or specification.size

    def crop(
        self,
        samples: Tensor,
        specification: InputSpecification = ANY_SIZE,
        *,
        places: Places | None = None,
        flips: Sequence[bool] | None = None,
    ) -> Tensor:
        """Cuts the same square from all channels of each sample, and mirrors some.

        Args:
            samples: (n, C, H, W) of `cut`.
            specification: what the encoder expects.
            places: where each square stands, as shares (down, right) in [0, 1) of the room there
                is; None: in the middle.
            flips: which samples are mirrored left to right; None: none.

        Returns:
            (n, C, side, side) of the samples' dtype; samples that are not cropped as they are.
        """
        return samples

    def draw_augmentation(
        self, rng: np.random.Generator, n_clips: int, per_clip: int
    ) -> NDArray[np.float64] | None:
        """Random numbers of `augment` for a whole batch, (n_clips, per_clip, ...); None: none."""
        return None

    def augment(self, samples: Tensor, draws: Tensor) -> Tensor:
        """Samples changed for training.

        Args:
            samples: (n, C, h, w) of `crop`, on any device.
            draws: (n, ...) float32 of `draw_augmentation`, on the same device.
        """
        return samples

    def resize(self, samples: Tensor, specification: InputSpecification = ANY_SIZE) -> Tensor:
        """Cropped samples at the size that the encoder takes, before they are normalized."""
        return samples

    def normalize(self, samples: Tensor, specification: InputSpecification = ANY_SIZE) -> Tensor:
        """Inputs of an encoder, on the samples' device.

        Args:
            samples: (n, C, h, w) of `crop`.
            specification: mean and standard deviation are the encoder's where it has them, else
                the stream's own.

        Returns:
            float32 (n, C, side, side).
        """
        samples = self.resize(samples, specification)
        if specification.mean is None or specification.std is None:
            return self.normalize_own(samples)
        return standardize(samples, specification.mean, specification.std)

    def times(self, clip: Media, positions: Sequence[int]) -> Tensor:
        """Seconds from the clip's start at which positions begin: float32 (n,)."""
        return torch.tensor(positions, dtype=torch.float32) / self.positions_per_second(clip)

    def uniform_samples(
        self, clip: Media, count: int, specification: InputSpecification = ANY_SIZE
    ) -> tuple[Tensor, Tensor]:
        """Uniformly spaced samples, cropped in the middle, each position once.

        Returns:
            (n, C, h, w) with n <= count, and float32 (n,) the share of the `count` samples that
            each stands for (a short clip's positions repeat), summing to 1.
        """
        places = uniform_positions(n=self.count_positions(clip), count=count)
        positions, times = np.unique(places, return_counts=True)
        samples = self.crop(self.cut(clip, positions.tolist()), specification)
        return samples, torch.from_numpy((times / count).astype(np.float32))

    def sample_shape(
        self, clip: Media, specification: InputSpecification = ANY_SIZE
    ) -> tuple[int, ...]:
        """(C, h, w) of the encoder's input from this clip."""
        first = self.crop(self.cut(clip, [0]), specification)
        return tuple(self.normalize(first, specification).shape[1:])

    def preview(self, clip: Media, count: int = 1) -> Preview:
        """What a report shows of the clip: by default the first channels of samples as pictures.

        Args:
            count: most pictures, where the kind shows several.
        """
        n = self.count_positions(clip)
        samples = self.cut(clip, uniform_positions(n=n, count=min(count, n)))
        pixels = samples[:, :1].expand(-1, 3, -1, -1) if self.channels < 3 else samples[:, :3]
        pictures = pixels.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        return Preview("pictures", pictures, self.name)


@dataclass(frozen=True, eq=False)
class Preview:
    """What a report shows of a clip."""

    display: Literal["pictures", "flow", "heat"]
    """How it is drawn."""
    values: NDArray[Any]
    """pictures: uint8 (n, H, W, 3) RGB; flow: float32 (2, H, W) in pixels, x first; heat: float32
    (bands, columns), the lowest band first, any unit."""
    caption: str
    """What it is, in a word or two."""


def standardize(samples: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(samples - mean) / std`` by channel, float32 (n, C, h, w)."""
    pixels = samples.float()
    middle = pixels.new_tensor(mean).view(-1, 1, 1)
    return (pixels - middle) / pixels.new_tensor(std).view(-1, 1, 1)


def metadata_of(clip: Media) -> Mapping[str, Any]:
    """The facts recorded with a clip; empty where it has none."""
    return getattr(clip, "metadata", {})

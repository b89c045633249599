"""What a stream's network sees of a clip: crops of frames, stacks of flow, windows of sound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from actors.artifact import ArtifactReader
from actors.flow.fields import flip_stack, interleave, subtract_mean
from actors.media.sampling import stack_indices, uniform_positions
from actors.streams import AUDIO, MOTION, SPATIAL
from trainers.streams.settings import StreamSettings

# Mean and deviation of ImageNet's pixels, scaled from 0..1 to 0..255: every torchvision model's
# input convention.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_SPREAD = (58.395, 57.12, 57.375)
# The middle of 0..255, so that 255 - v is exactly -v; 16 levels (2.5 pixels at a bound of 20) are
# about the spread of everyday motion.
FLOW_MIDDLE = 127.5
FLOW_SPREAD = 16.0


class Media(Protocol):
    """What samples are cut from: `actors.artifact.ArtifactReader` or a `Clip` that remembers."""

    n_frames: int
    n_flow: int
    spectrogram_rate: float | None

    def frames(self, indices: Sequence[int]) -> Tensor: ...

    def flow(self, indices: Sequence[int]) -> Tensor: ...

    def spectrogram(self) -> Tensor | None: ...


class Clips:
    """Artifacts kept open, and what was decoded of them as far as memory is allowed.

    Which samples come next is random, so that nothing is gained by forgetting some for others:
    what is kept stays until the end. Several threads may read at once.

    Args:
        open_files: artifacts open at a time; the longest unused is closed.
        cache_mb: megabytes of decoded data kept.
        opener: opens an artifact.
    """

    def __init__(
        self,
        *,
        open_files: int,
        cache_mb: int,
        opener: Callable[[str], Media] = ArtifactReader.open,
    ) -> None:
        self._opener = opener
        self._open_files = open_files
        self._bytes_left = cache_mb * 2**20
        self._lock = threading.Lock()
        self._readers: OrderedDict[str, Media] = OrderedDict()
        self._kept: dict[str, dict[tuple[str, int], np.ndarray]] = {}

    def __getitem__(self, artifact: str) -> Clip:
        with self._lock:
            reader = self._readers.pop(artifact, None)
        reader = reader or self._opener(artifact)
        with self._lock:
            self._readers[artifact] = reader
            while len(self._readers) > self._open_files:
                self._readers.popitem(last=False)
            kept = self._kept.setdefault(artifact, {})
        return Clip(reader, kept, self._keep)

    def _keep(self, size: int) -> bool:
        """Takes `size` bytes of what memory is left, if there are as many."""
        with self._lock:
            fits = size <= self._bytes_left
            self._bytes_left -= size if fits else 0
        return fits


class Clip:
    """One artifact, read through what is remembered of it."""

    def __init__(
        self,
        reader: Media,
        kept: dict[tuple[str, int], np.ndarray],
        keep: Callable[[int], bool],
    ) -> None:
        self._reader, self._kept, self._keep = reader, kept, keep
        self.n_frames = reader.n_frames
        self.n_flow = reader.n_flow
        self.spectrogram_rate = reader.spectrogram_rate

    def frames(self, indices: Sequence[int]) -> Tensor:
        return self._read("frames", indices, self._reader.frames)

    def flow(self, indices: Sequence[int]) -> Tensor:
        return self._read("flow", indices, self._reader.flow)

    def spectrogram(self) -> Tensor | None:
        key = ("spectrogram", 0)
        if key not in self._kept:
            spectrogram = self._reader.spectrogram()
            if spectrogram is None:
                return None
            if not self._keep(spectrogram.nbytes):
                return spectrogram
            self._kept[key] = spectrogram.numpy()
        return torch.from_numpy(self._kept[key])

    def _read(
        self, kind: str, indices: Sequence[int], read: Callable[[Sequence[int]], Tensor]
    ) -> Tensor:
        missing = sorted({i for i in indices if (kind, i) not in self._kept})
        fresh: dict[int, np.ndarray] = {}
        if missing:
            fresh = dict(zip(missing, read(missing).numpy(), strict=True))
            for i, image in fresh.items():
                if self._keep(image.nbytes):
                    self._kept[kind, i] = image.copy()
        images = [fresh[i] if i in fresh else self._kept[kind, i] for i in indices]
        return torch.from_numpy(np.stack(images))


def count_positions(clip: Media, stream: str, settings: StreamSettings) -> int:
    """At how many places a sample of the stream can be cut from a clip; 0 where it is absent."""
    if stream == SPATIAL:
        return clip.n_frames
    if stream == MOTION:
        return max(clip.n_flow - settings.stack + 1, 1) if clip.n_flow else 0
    spectrogram = clip.spectrogram()
    if spectrogram is None or spectrogram.shape[1] == 0:
        return 0
    return max(spectrogram.shape[1] - _window(clip, settings) + 1, 1)


def cut(clip: Media, stream: str, settings: StreamSettings, positions: Sequence[int]) -> Tensor:
    """Whole samples of one clip, not yet cropped or normalized.

    Args:
        positions: frame, first field of a stack, or first column of a window; each below
            `count_positions`. Past the end of the flow its last field is repeated; a soundtrack
            shorter than the window is repeated from its start.

    Returns:
        uint8 (n, 3, H, W) or (n, 2L, H, W), channels x, y, x, y, ...; float32
        (n, 1, bands, columns).
    """
    if stream == SPATIAL:
        return clip.frames(positions)
    if stream == MOTION:
        length = settings.stack
        wanted = [stack_indices(start=p, length=length, n=clip.n_flow) for p in positions]
        flow = clip.flow([i for indices in wanted for i in indices])
        return interleave(flow.unflatten(0, (len(wanted), length)))
    spectrogram = clip.spectrogram()
    assert spectrogram is not None, "clips without sound are left out before"
    window = _window(clip, settings)
    if spectrogram.shape[1] < window:
        spectrogram = spectrogram.repeat(1, -(-window // spectrogram.shape[1]))
    return torch.stack([spectrogram[None, :, p : p + window] for p in positions])


def crop_samples(
    samples: Tensor,
    stream: str,
    settings: StreamSettings,
    *,
    places: Sequence[tuple[float, float]] | None = None,
    flips: Sequence[bool] | None = None,
) -> Tensor:
    """Cuts the same square from all channels of each sample, and mirrors some.

    Args:
        samples: of `cut`, (n, C, H, W); pictures smaller than the crop are scaled up to it. Sound
            is returned as it is.
        places: where the square stands, as shares (down, right) in [0, 1) of the room there is;
            None: in the middle.
        flips: which are mirrored left to right, x displacements negated; None: none.

    Returns:
        (n, C, crop, crop), uint8.
    """
    if stream == AUDIO or settings.crop is None:
        return samples
    samples = _at_least(samples, settings.crop)
    crop, (height, width) = settings.crop, samples.shape[-2:]
    room = height - crop, width - crop
    out = samples.new_empty(*samples.shape[:2], crop, crop)
    for i, sample in enumerate(samples):
        if places is None:
            top, left = room[0] // 2, room[1] // 2
        else:
            top, left = (int(share * (r + 1)) for share, r in zip(places[i], room, strict=True))
        piece = sample[:, top : top + crop, left : left + crop]
        if flips is not None and flips[i]:
            piece = flip_stack(piece) if stream == MOTION else piece.flip(-1)
        out[i] = piece
    return out


def normalize(samples: Tensor, stream: str, settings: StreamSettings) -> Tensor:
    """What a network takes: float32 of about zero mean and unit spread, on the samples' device.

    Args:
        samples: of `crop_samples`.

    Returns:
        (n, 3, crop, crop), (n, 2L, crop, crop), or (n, 1, bands, columns) resized to
        (n, 1, crop, crop) where a crop is set.
    """
    if stream == AUDIO:
        if settings.crop is None:
            return samples
        size = (settings.crop, settings.crop)
        return interpolate(samples, size=size, mode="bilinear", antialias=True)
    pixels = samples.float()
    if stream == SPATIAL:
        mean = pixels.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
        return (pixels - mean) / pixels.new_tensor(IMAGENET_SPREAD).view(3, 1, 1)
    stacks = (pixels - FLOW_MIDDLE) / FLOW_SPREAD
    return subtract_mean(stacks) if settings.subtract_mean_flow else stacks


def uniform_samples(
    clip: Media, stream: str, settings: StreamSettings, count: int
) -> tuple[Tensor, Tensor]:
    """Uniformly spaced samples, cropped in the middle, each position once.

    Returns:
        (n, C, h, w) with n <= count, and float32 (n,) how often each was asked for (a short clip's
        positions repeat), summing to 1.
    """
    places = uniform_positions(n=count_positions(clip, stream, settings), count=count)
    positions, times = np.unique(places, return_counts=True)
    samples = crop_samples(cut(clip, stream, settings, positions.tolist()), stream, settings)
    return samples, torch.from_numpy((times / count).astype(np.float32))


def sample_shape(clip: Media, stream: str, settings: StreamSettings) -> tuple[int, ...]:
    """(C, h, w) of what a network gets of this clip."""
    first = crop_samples(cut(clip, stream, settings, [0]), stream, settings)
    return tuple(normalize(first, stream, settings).shape[1:])


def _window(clip: Media, settings: StreamSettings) -> int:
    assert clip.spectrogram_rate is not None
    return max(round(settings.window_seconds * clip.spectrogram_rate), 1)


def _at_least(samples: Tensor, side: int) -> Tensor:
    """Scales pictures up so that their shorter side is `side`, where it is less."""
    height, width = samples.shape[-2:]
    short = min(height, width)
    if short >= side:
        return samples
    size = (max(round(height * side / short), side), max(round(width * side / short), side))
    return interpolate(samples, size=size, mode="bilinear", antialias=False)

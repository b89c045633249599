"""Clips as streams read them: open artifacts, and what was decoded of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from actors.artifact import ArtifactReader


class Media(Protocol):
    """What samples are cut from: `actors.artifact.ArtifactReader` or a `CachedClip`."""

    n_frames: int
    n_flow: int
    spectrogram_rate: float | None

    def frames(self, indices: Sequence[int]) -> Tensor: ...

    def flow(self, indices: Sequence[int]) -> Tensor: ...

    def spectrogram(self) -> Tensor | None: ...


class ClipCache:
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

    def __getitem__(self, artifact: str) -> CachedClip:
        with self._lock:
            reader = self._readers.pop(artifact, None)
        reader = reader or self._opener(artifact)
        with self._lock:
            self._readers[artifact] = reader
            while len(self._readers) > self._open_files:
                self._readers.popitem(last=False)
            kept = self._kept.setdefault(artifact, {})
        return CachedClip(reader, kept, self._keep)

    def _keep(self, size: int) -> bool:
        """Takes `size` bytes of what memory is left, if there are as many."""
        with self._lock:
            fits = size <= self._bytes_left
            self._bytes_left -= size if fits else 0
        return fits


class CachedClip:
    """One artifact, read through the cache of what was decoded of it."""

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

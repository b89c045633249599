"""A decoded clip in memory, for prediction: the interface of an artifact without its file.

Flow is computed, and a lossy codec applied, only for the frames and fields that are read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from actors.artifact import checked_indices
from actors.extract_settings import ExtractSettings
from actors.flow import FlowEngine, get_engine, to_gray
from actors.flow.methods import find_quantized
from actors.media.codecs import as_decoded
from actors.reading import check_tracks, read_media
from actors.tracks import FLOW, FRAMES, SOUND, TRACKS

IN_MEMORY = 2**29
"""Bytes of decoded frames in memory; further frames go to a temporary file."""


class DecodedFrames:
    """The frames of one clip, uint8 (H, W, 3), in memory and then in a temporary file.

    Args:
        keep_every: every n-th frame is kept.
        in_memory: largest number of bytes in memory.

    Attributes:
        seen: number of frames added.
        size: (H, W) of the frames; None before the first one.
    """

    def __init__(self, keep_every: int = 1, in_memory: int = IN_MEMORY) -> None:
        self.seen = 0
        self.size: tuple[int, int] | None = None
        self._every, self._bytes_left = keep_every, in_memory
        self._kept: list[np.ndarray] = []
        self._file: Any = None

    def append(self, frame: np.ndarray) -> None:
        """Adds a frame."""
        if self.size is None:
            self.size = (frame.shape[0], frame.shape[1])
        if self.seen % self._every == 0:
            self._keep(frame)
        self.seen += 1

    def _keep(self, frame: np.ndarray) -> None:
        if self._file is None and frame.nbytes <= self._bytes_left:
            self._bytes_left -= frame.nbytes
            self._kept.append(frame)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._file.write(np.ascontiguousarray(frame).data)

    def flush(self) -> None:
        """Writes out buffered frames; to be called before frames are read."""
        if self._file is not None:
            self._file.flush()

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns a kept frame."""
        if index < len(self._kept):
            return self._kept[index]
        assert self.size is not None
        length = 3 * self.size[0] * self.size[1]
        content = os.pread(self._file.fileno(), length, (index - len(self._kept)) * length)
        return np.frombuffer(content, np.uint8).reshape(*self.size, 3)

    def close(self) -> None:
        """Removes the temporary file."""
        if self._file is not None:
            self._file.close()


class ClipInMemory:
    """A decoded clip with the interface of `actors.artifact.ArtifactReader`.

    Its values are those of the clip's artifact. Flow of RAFT differs by rounding, because other
    fields are computed in the same batch.

    Use it in a ``with`` statement: a long clip has a temporary file.

    Attributes:
        metadata: metadata of the clip's artifact.
        tracks: those the clip has, in the order of `actors.tracks.TRACKS`.
        n_frames, n_flow: number of RGB frames and of flow fields.
        size: (H, W) of frames and flow; None without both.
        spectrogram_rate: columns of the spectrogram per second; None without sound.
    """

    def __init__(
        self,
        settings: ExtractSettings,
        tracks: Sequence[str],
        engine: FlowEngine | None,
        threads: int,
    ) -> None:
        self._settings, self._wanted = settings, tuple(tracks)
        self._engine, self._threads = engine, threads
        # Flow is computed between all frames, also those that are not kept as RGB.
        self._every = settings.frame_every if FLOW not in tracks else 1
        self._decoded = DecodedFrames(self._every)
        self._fields: dict[int, np.ndarray] = {}
        self._spectrogram: np.ndarray | None = None
        self.metadata: dict[str, Any] = {}
        self.tracks: tuple[str, ...] = ()
        self.size: tuple[int, int] | None = None
        self.n_frames = self.n_flow = 0
        self.spectrogram_rate: float | None = None

    def __enter__(self) -> ClipInMemory:
        return self

    def __exit__(self, *error: object) -> None:
        self._decoded.close()

    def add(self, frames: Iterator[np.ndarray]) -> None:
        """Adds decoded frames; see `actors.reading.FrameSink`."""
        for frame in frames:
            self._decoded.append(frame)

    def finish(self) -> None:
        """Ends the clip; see `actors.reading.FrameSink`."""
        self._decoded.flush()
        self.size, seen = self._decoded.size, self._decoded.seen
        if FRAMES in self._wanted:
            self.n_frames = -(-seen // self._settings.frame_every)
        if FLOW in self._wanted:
            self.n_flow = max(seen - 1, 0)

    def read(self, path: str) -> None:
        """Decodes the file.

        Raises:
            MediaError: the file has none of the tracks.
        """
        self.metadata, self._spectrogram = read_media(path, self._settings, self._wanted, self)
        present = {
            FRAMES: self.n_frames > 0,
            FLOW: self.n_flow > 0,
            SOUND: self._spectrogram is not None,
        }
        self.tracks = tuple(track for track in TRACKS if present[track])
        if present[SOUND]:
            self.spectrogram_rate = self.metadata["sound"]["columns_per_second"]

    def frames(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Returns RGB frames: uint8 (n, 3, H, W), in the order of the indices.

        Raises:
            IndexError: an index is out of range, or there is none.
        """
        wanted = checked_indices("frames", indices, self.n_frames)
        step = self._settings.frame_every // self._every
        return torch.from_numpy(self._as_kept(self._stack(wanted * step), color=True))

    def flow(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Returns flow fields: uint8 (n, 2, H, W), x first; computes those not computed before.

        Raises:
            IndexError: an index is out of range, or there is none.
        """
        wanted = checked_indices("flow", indices, self.n_flow)
        missing = np.array(sorted(set(wanted.tolist()) - set(self._fields)), np.int64)
        for first, stop in runs(missing, longest=self._settings.window):
            found = self._find(np.arange(first, stop + 1))
            self._fields |= zip(range(first, stop), found, strict=True)
        return torch.from_numpy(np.stack([self._fields[i] for i in wanted.tolist()]))

    def spectrogram(self) -> torch.Tensor | None:
        """Returns the log-magnitude STFT, float32 (bands, T), roughly standardized; or None."""
        kept = self._spectrogram
        return None if kept is None else torch.from_numpy(kept.astype(np.float32))

    def _stack(self, kept: np.ndarray) -> np.ndarray:
        """Stacks kept frames: uint8 (n, 3, H, W)."""
        stacked = np.stack([self._decoded[i] for i in kept.tolist()])
        return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))

    def _find(self, kept: np.ndarray) -> np.ndarray:
        """Computes the fields between consecutive frames, as in an artifact: (n - 1, 2, H, W)."""
        assert self._engine is not None
        frames = self._stack(kept)
        if not getattr(self._engine, "color", False):
            frames = self._in_threads(to_gray, frames)
        fields = find_quantized(self._engine, frames, self._settings.flow_bound)
        return self._as_kept(fields, color=False)

    def _as_kept(self, images: np.ndarray, *, color: bool) -> np.ndarray:
        settings = self._settings
        quality = settings.frame_quality if color else settings.jpeg_quality
        return self._in_threads(
            lambda part: as_decoded(part, codec=settings.codec, quality=quality), images
        )

    def _in_threads(
        self, work: Callable[[np.ndarray], np.ndarray], images: np.ndarray
    ) -> np.ndarray:
        """Calls `work` on equal parts of the images, each in a thread, and joins the results."""
        count = min(self._threads, len(images))
        if count < 2:
            return work(images)
        ends = np.linspace(0, len(images), count + 1).astype(int).tolist()
        with ThreadPoolExecutor(count) as pool:
            parts = pool.map(work, [images[a:b] for a, b in pairwise(ends)])
            return np.concatenate(list(parts))


def runs(indices: np.ndarray, *, longest: int) -> Iterator[tuple[int, int]]:
    """Splits ascending indices into runs (first, stop) without gaps, none above `longest`.

    Example: 3, 4, 5, 9 with longest=2: (3, 5), (5, 6), (9, 10).
    """
    if len(indices) == 0:
        return
    for run in np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1):
        first, stop = int(run[0]), int(run[-1]) + 1
        for start in range(first, stop, longest):
            yield start, min(start + longest, stop)


def read_clip(
    path: str,
    *,
    settings: ExtractSettings,
    tracks: Sequence[str] = TRACKS,
    flow: FlowEngine | None = None,
    threads: int = 1,
) -> ClipInMemory:
    """Decodes a video into memory.

    Args:
        path: path of a local file.
        settings: settings of the extraction.
        tracks: which of `actors.tracks.TRACKS` to read.
        flow: engine of the flow; None: the settings' method on `threads` threads of the CPU.
        threads: number of threads that convert frames and fields.

    Raises:
        MediaError: the file has none of the tracks.
        UserError: a track does not exist.
    """
    check_tracks(tracks)
    if flow is None and FLOW in tracks:
        flow = get_engine(settings.chosen_flow, threads=threads)
    clip = ClipInMemory(settings, tracks, flow, threads)
    try:
        clip.read(path)
    except BaseException:
        clip._decoded.close()
        raise
    return clip

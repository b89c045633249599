"""Extraction of a video's tracks in one pass over the file, into one artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from actors.artifact import Clip, ImageSpool, Spool, artifact_name, pieces, spool
from actors.extract_settings import ExtractSettings
from actors.flow import FlowEngine, get_engine, to_gray
from actors.flow.engine import is_on_gpu
from actors.flow.methods import find_quantized
from actors.reading import check_tracks, read_media
from actors.storage import Storage
from actors.tracks import FLOW, FRAMES, TRACKS


def extract_clip(
    path: str,
    *,
    settings: ExtractSettings,
    tracks: Sequence[str] = TRACKS,
    flow: FlowEngine | None = None,
    overlap: bool = False,
) -> Clip:
    """Reads a video once and returns its tracks; `artifact.pieces` makes the artifact's bytes.

    A track that the file does not have is absent, and the metadata has the reason. Decoding errors
    are counted; a track is absent only if nothing of it decodes.

    Args:
        path: path of a local file.
        settings: settings of the extraction.
        tracks: which of `actors.tracks.TRACKS` to extract.
        flow: engine of the flow; None: the settings' method on the CPU.
        overlap: compute the flow of a window in a thread while the next window is decoded. Of use
            for an engine on a GPU.

    Raises:
        MediaError: the file has none of the tracks.
        UserError: a track does not exist.
    """
    check_tracks(tracks)
    if flow is None and FLOW in tracks:
        flow = get_engine(settings.chosen_flow)
    with _Windows(settings, flow, tracks, overlap) as windows:
        metadata, spectrogram = read_media(path, settings, tracks, windows)
    tensors = windows.tensors()
    if spectrogram is not None:
        tensors["spectrogram"] = spool(spectrogram)
    return Clip(metadata=metadata, tensors=tensors)


class _Windows:
    """Encodes frames and computes flow window by window.

    The last frame of a window is also the first one of the next window's flow. With `overlap` the
    flow of a window is computed in a thread while the next window is decoded.
    """

    def __init__(
        self,
        settings: ExtractSettings,
        engine: FlowEngine | None,
        tracks: Sequence[str],
        overlap: bool,
    ) -> None:
        self._settings = settings
        self._engine = engine if FLOW in tracks else None
        self._keep_frames = FRAMES in tracks
        self._color = bool(getattr(engine, "color", False))
        self._waiting: list[np.ndarray] = []
        self._last: np.ndarray | None = None
        self._seen = 0
        self._thread = ThreadPoolExecutor(1) if overlap else None
        self._found: Future[None] | None = None
        self.size: tuple[int, int] | None = None
        self.frames = ImageSpool(settings.codec, settings.frame_quality)
        self.flow = ImageSpool(settings.codec, settings.jpeg_quality)

    @property
    def n_frames(self) -> int:
        return self.frames.count

    @property
    def n_flow(self) -> int:
        return self.flow.count

    def __enter__(self) -> _Windows:
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._thread.shutdown()

    def add(self, frames: Iterator[np.ndarray]) -> None:
        for frame in frames:
            self._waiting.append(frame)
            if len(self._waiting) >= self._settings.window:
                self.flush()

    def flush(self) -> None:
        """Adds the waiting frames, and the flow up to the last one, to the artifact."""
        if not self._waiting:
            return
        # (T, H, W, 3) -> (T, 3, H, W)
        window = np.ascontiguousarray(np.stack(self._waiting).transpose(0, 3, 1, 2))
        self._waiting = []
        self.size = (window.shape[2], window.shape[3])
        if self._keep_frames:
            every = self._settings.frame_every
            self.frames.append(window[-self._seen % every :: every])
        self._seen += len(window)
        if self._engine is not None:
            self._append_flow(self._engine, window if self._color else to_gray(window))

    def finish(self) -> None:
        """Flushes the waiting frames and waits for the flow of all windows."""
        self.flush()
        self._wait()

    def _append_flow(self, engine: FlowEngine, window: np.ndarray) -> None:
        if self._last is not None:
            window = np.concatenate([self._last[None], window])
        self._last = window[-1].copy()
        if len(window) < 2:
            return
        if self._thread is None:
            self._find(engine, window)
            return
        self._wait()
        self._found = self._thread.submit(self._find, engine, window)

    def _find(self, engine: FlowEngine, window: np.ndarray) -> None:
        self.flow.append(find_quantized(engine, window, self._settings.flow_bound))

    def _wait(self) -> None:
        """Waits for the flow of the window in the thread, and raises its error."""
        if self._found is not None:
            self._found.result()
            self._found = None

    def tensors(self) -> dict[str, Spool]:
        return self.frames.tensors("frames") | self.flow.tensors("flow")


class ClipExtractor:
    """Extracts the video of a manifest's row and writes its artifact; a `pool.run.ClipWorker`.

    Picklable; the flow engine is made in the process that uses it.

    Args:
        settings: settings of the extraction.
        tracks: which of `actors.tracks.TRACKS` to extract.
        storage: storage of the artifacts.
        device: device of the flow, "cpu", "cuda" or "auto"; see `flow.get_engine`.
        share: largest share of a GPU's memory.
    """

    def __init__(
        self,
        settings: ExtractSettings,
        tracks: Sequence[str],
        storage: Storage,
        device: str = "cpu",
        share: float = 1.0,
    ) -> None:
        self.settings, self.tracks, self.storage = settings, tuple(tracks), storage
        self.device, self.share = device, share
        self._engine: FlowEngine | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engine": None}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Extracts the file `row["path"]` into the artifact `row["name"]`.

        Without a name the artifact's name is `artifact_name(row["id"])`.

        Returns:
            Facts: n_frames, n_flow, pairs, duration (seconds), absent (track -> reason), bytes,
            cut_at (seconds), truncated, decode_errors; note: remark of the flow's engine, if any.

        Raises:
            MediaError: the video can't be used.
        """
        if self._engine is None and FLOW in self.tracks:
            self._engine = get_engine(self.settings.chosen_flow, self.device, share=self.share)
        clip = extract_clip(
            row["path"],
            settings=self.settings,
            tracks=self.tracks,
            flow=self._engine,
            overlap=is_on_gpu(self._engine),
        )
        name = row.get("name") or artifact_name(row["id"])
        written = 0

        def counted() -> Iterator[bytes]:
            nonlocal written
            for piece in pieces(clip):
                written += len(piece)
                yield piece

        self.storage.write_pieces(name, counted())
        facts = ("n_frames", "n_flow", "duration", "absent", "cut_at", "truncated", "decode_errors")
        note = getattr(self._engine, "note", None)
        return {key: clip.metadata[key] for key in facts} | {
            "pairs": clip.metadata["n_flow"],
            "bytes": written,
            **({"note": note} if note else {}),
        }

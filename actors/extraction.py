"""Extraction of a video's tracks in one pass over the file, into one artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from actors.artifact import VERSION, Clip, ImageSpool, Spool, artifact_name, pieces, spool
from actors.errors import MediaError, UserError, nearest
from actors.extract_settings import ExtractSettings
from actors.flow import FlowEngine, get_engine, to_gray
from actors.flow.engine import is_on_gpu
from actors.flow.methods import find_quantized
from actors.media.decode import PictureDecoder, best_pictures, open_media, packets
from actors.media.sound import SoundDecoder
from actors.storage import Storage
from actors.tracks import FLOW, FRAMES, SOUND, TRACKS


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


def check_tracks(tracks: Sequence[str]) -> None:
    """Raises UserError for a track that does not exist."""
    for track in tracks:
        if track not in TRACKS:
            known = ", ".join(TRACKS)
            raise UserError(f"track {track!r} does not exist ({known}){nearest(track, TRACKS)}")


class FrameSink(Protocol):
    """Where a pass over a file leaves the frames.

    Attributes:
        size: (H, W) of the frames; None before the first.
        n_frames, n_flow: RGB frames and flow fields that the clip has.
    """

    @property
    def size(self) -> tuple[int, int] | None: ...

    @property
    def n_frames(self) -> int: ...

    @property
    def n_flow(self) -> int: ...

    def add(self, frames: Iterator[np.ndarray]) -> None:
        """Takes the next frames, uint8 (H, W, 3)."""
        ...

    def finish(self) -> None:
        """Called once after the last frame."""
        ...


def read_media(
    path: str, settings: ExtractSettings, tracks: Sequence[str], sink: FrameSink
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Reads a video once; its frames go to `sink`.

    Returns:
        The clip's metadata, as an artifact has it, and the spectrogram, float16 (bands, T), or
        None.

    Raises:
        MediaError: the file has none of the tracks.
    """
    return _Extraction(path, settings, tracks, sink).run()


class _Extraction:
    """The state of one pass over one file."""

    def __init__(
        self, path: str, settings: ExtractSettings, tracks: Sequence[str], sink: FrameSink
    ) -> None:
        self.path, self.settings = path, settings
        self.tracks = [track for track in TRACKS if track in tracks]
        self.absent: dict[str, MediaError] = {}
        self.sink = sink
        self.pictures: PictureDecoder | None = None
        self.sound: SoundDecoder | None = None
        self.spectrogram: np.ndarray | None = None
        self.unfinished: str | None = None

    def run(self) -> tuple[dict[str, Any], np.ndarray | None]:
        with open_media(self.path) as media:
            self._choose(media)
            self._read(media)
        self._judge()
        if len(self.absent) == len(self.tracks):
            raise self._refusal()
        return self._facts(), self.spectrogram

    def _choose(self, media: Any) -> None:
        """Opens the decoders of the tracks; marks tracks without a decoder as absent."""
        visual = [track for track in self.tracks if track != SOUND]
        try:
            stream = best_pictures(media) if visual else None
            if visual and stream is None:
                raise MediaError("no_pictures", "the file has no pictures")
            if stream is not None:
                self.pictures = PictureDecoder(
                    stream,
                    fps=self.settings.fps,
                    short_side=self.settings.short_side,
                    max_aspect=self.settings.max_aspect,
                    max_seconds=self.settings.max_seconds,
                    max_pixels=self.settings.max_pixels,
                )
        except MediaError as error:
            self.absent |= dict.fromkeys(visual, error)
        if SOUND not in self.tracks:
            return
        try:
            if not media.streams.audio:
                raise MediaError("no_sound", "the file has no sound")
            self.sound = SoundDecoder(
                media.streams.audio[0],
                settings=self.settings.sound,
                max_seconds=self.settings.max_seconds,
            )
        except MediaError as error:
            self.absent[SOUND] = error

    def _read(self, media: Any) -> None:
        decoders = [d for d in (self.pictures, self.sound) if d is not None]
        wanted = {decoder.stream.index: decoder for decoder in decoders}
        for packet in packets(media, [d.stream for d in decoders]):
            if isinstance(packet, MediaError):
                self.unfinished = packet.message
                break
            decoder = wanted[packet.stream.index]
            if isinstance(decoder, PictureDecoder):
                self.sink.add(decoder.decode(packet))
            else:
                decoder.decode(packet)
            if all(d.done for d in decoders):
                break
        if self.pictures is not None:
            self.sink.add(self.pictures.finish())
            self.sink.finish()
        if self.sound is not None:
            self.spectrogram, reason = self.sound.finish()
            if reason is not None:
                self.absent[SOUND] = reason

    def _judge(self) -> None:
        """Marks the tracks as absent of which nothing was decoded."""
        if self.pictures is None:
            return
        if self.pictures.taken == 0:
            damage = f" ({self.pictures.errors} damaged)" if self.pictures.errors else ""
            error = MediaError("no_frames", f"no picture of the file decodes{damage}")
            self.absent |= {track: error for track in self.tracks if track != SOUND}
        elif FLOW in self.tracks and self.pictures.taken == 1:
            self.absent[FLOW] = MediaError(
                "one_frame", "the file has a single frame: nothing moves"
            )

    def _refusal(self) -> MediaError:
        reasons = list(dict.fromkeys(self.absent[track].message for track in self.tracks))
        if self.unfinished:
            reasons.append(self.unfinished)
        kinds = [self.absent[track].kind for track in self.tracks]
        return MediaError(kinds[0], f"{self.path}: {'; '.join(reasons)}")

    def _facts(self) -> dict[str, Any]:
        pictures, sound, settings = self.pictures, self.sound, self.settings
        seen = pictures is not None and pictures.taken > 0
        heard = sound is not None and self.spectrogram is not None
        decoders = [d for d in (pictures, sound) if d is not None]
        return {
            "version": VERSION,
            "tracks": self.tracks,
            "absent": {t: self.absent[t].message for t in self.tracks if t in self.absent},
            "n_frames": self.sink.n_frames,
            "n_flow": self.sink.n_flow,
            "frame_every": settings.frame_every,
            "fps": pictures.rate if pictures and seen else None,
            "size": self.sink.size if seen else None,
            "source_size": pictures.source_size if pictures and seen else None,
            "rotation": pictures.rotation if pictures and seen else 0,
            "codec": settings.codec,
            "flow_bound": settings.flow_bound,
            "duration": max((d.seconds for d in decoders), default=0.0),
            "decode_errors": sum(d.errors for d in decoders),
            "damaged_frames": pictures.damaged if pictures else 0,
            "truncated": bool(self.unfinished) or (pictures.truncated if pictures else False),
            "cut_at": settings.max_seconds if any(d.cut for d in decoders) else None,
            "sound": {
                "seconds": sound.seconds,
                "peak": sound.peak,
                "columns_per_second": settings.sound.columns_per_second,
                "sample_rate": settings.sound.sample_rate,
            }
            if sound and heard
            else None,
        }


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

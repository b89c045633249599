"""One pass over a media file: its frames go to a sink, its sound becomes a spectrogram."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from actors.artifact import VERSION
from actors.errors import MediaError, UserError, nearest
from actors.extract_settings import ExtractSettings
from actors.media.decode import PictureDecoder, best_pictures, open_media, packets
from actors.media.sound import SoundDecoder
from actors.tracks import FLOW, SOUND, TRACKS


def check_tracks(tracks: Sequence[str]) -> None:
    """Raises `UserError` if a track does not exist, or none is named."""
    known = ", ".join(TRACKS)
    if not tracks:
        raise UserError(f"no track is named; choose from {known}")
    for track in tracks:
        if track not in TRACKS:
            raise UserError(f"track {track!r} does not exist ({known}){nearest(track, TRACKS)}")


class FrameSink(Protocol):
    """Receives the frames of a pass over a file.

    Attributes:
        size: (H, W) of the frames; None before the first one.
        n_frames, n_flow: number of RGB frames and of flow fields of the clip.
    """

    @property
    def size(self) -> tuple[int, int] | None: ...

    @property
    def n_frames(self) -> int: ...

    @property
    def n_flow(self) -> int: ...

    def add(self, frames: Iterator[np.ndarray]) -> None:
        """Adds frames, uint8 (H, W, 3)."""
        ...

    def finish(self) -> None:
        """Ends the clip; called once after the last frame."""
        ...


def read_media(
    path: str, settings: ExtractSettings, tracks: Sequence[str], sink: FrameSink
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Reads a file once.

    Args:
        path: path of a local file.
        settings: settings of the extraction.
        tracks: which of `actors.tracks.TRACKS` to read.
        sink: receives the frames.

    Returns:
        The metadata of the clip's artifact, and the spectrogram, float16 (bands, T), or None.

    Raises:
        MediaError: the file has none of the tracks.
    """
    return _Pass(path, settings, tracks, sink).run()


class _Pass:
    """State of one pass over one file."""

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
        self._mark_absent()
        if len(self.absent) == len(self.tracks):
            raise self._rejection()
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
        by_index = {decoder.stream.index: decoder for decoder in decoders}
        for packet in packets(media, [d.stream for d in decoders]):
            if isinstance(packet, MediaError):
                self.unfinished = packet.message
                break
            decoder = by_index[packet.stream.index]
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

    def _mark_absent(self) -> None:
        """Marks the tracks as absent of which nothing was decoded."""
        if self.pictures is None:
            return
        if self.pictures.taken == 0:
            damage = f" ({self.pictures.errors} damaged)" if self.pictures.errors else ""
            error = MediaError("no_frames", f"no picture of the file decodes{damage}")
            self.absent |= {track: error for track in self.tracks if track != SOUND}
        elif FLOW in self.tracks and self.pictures.taken == 1:
            self.absent[FLOW] = MediaError(
                "one_frame", "the file has a single frame; flow needs two"
            )

    def _rejection(self) -> MediaError:
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

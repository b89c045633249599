"""Pictures out of a video file: opened safely, on time, upright, at a bounded size."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import av
import av.container
import av.logging
import numpy as np
from av.video.reformatter import VideoReformatter

from actors.errors import MediaError
from actors.media.sampling import ticks_before

DECODE_ERRORS = (av.FFmpegError, ValueError)
"""What PyAV raises for bytes that make no sense (ValueError: for a format it can't convert)."""

SMALLEST_SIDE = 16
"""Pixels; a picture with a shorter side is enlarged: flow needs some room to look around."""

MAX_RATE = 240.0
"""Frames per second. Bounds a file whose timestamps stand still, which `max_seconds` can't."""

_NO_MEDIA = {
    "tty": "a text file",
    "srt": "subtitles",
    "ass": "subtitles",
    "webvtt": "subtitles",
    "ffmetadata": "a text file",
    "hls": "a playlist",
    "concat": "a list of other files",
    "dash": "a playlist",
    "sdp": "a description of a network stream",
}


@contextmanager
def open_media(path: str) -> Iterator[av.container.InputContainer]:
    """Opens a local media file; only that file, whatever its content refers to.

    Raises:
        MediaError: there is no such file, it is not a plain file, it is empty, or it is no media.
    """
    _check_file(path)
    av.logging.set_level(av.logging.PANIC)
    try:
        media = av.open(
            "file:" + os.path.abspath(path),
            metadata_errors="replace",  # a real HMDB-51 clip has a title that is not UTF-8
            options={"protocol_whitelist": "file"},  # a playlist must not reach for the network
        )
    except DECODE_ERRORS as error:
        raise MediaError("unreadable", f"{path}: {_reason(error)}") from error
    try:
        # Such files would show what is elsewhere, or their own text, as if it were the clip.
        if what := _NO_MEDIA.get(media.format.name):
            raise MediaError("unreadable", f"{path}: {what}, not a video")
        yield media
    finally:
        media.close()


def _check_file(path: str) -> None:
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise MediaError("not_a_file", f"{path}: a folder, not a video")
        if not stat.S_ISREG(found.st_mode):
            raise MediaError("not_a_file", f"{path}: not a plain file")
        if found.st_size == 0:
            raise MediaError("empty", f"{path}: the file has no bytes")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise MediaError("missing", f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError("unreadable", f"{path}: can't be opened ({reason})") from error


def _reason(error: Exception) -> str:
    """What PyAV's error says, in words for whoever owns the file."""
    if isinstance(error, av.error.EOFError):
        return "ends before any picture or sound is described"
    if isinstance(error, av.error.InvalidDataError):
        return "not a video or sound file that FFmpeg knows, or its beginning is damaged"
    return f"can't be opened ({getattr(error, 'strerror', None) or error})"


def picture_size(*, width: int, height: int, short_side: int, max_aspect: float) -> tuple[int, int]:
    """The size (width, height) at which a picture is kept.

    The shorter side comes down to `short_side`; smaller pictures stay as they are, but for those
    below 16 pixels, which come up to it. A strip thinner than 1:`max_aspect` is widened across.
    """
    if width < 1 or height < 1:
        raise ValueError(f"width={width}, height={height}: a picture has at least one pixel")
    least = math.ceil(max(width, height) / max_aspect)
    wide, high = max(width, least), max(height, least)
    short = min(wide, high)
    if short > short_side or short < SMALLEST_SIDE:
        wide = max(round(wide * short_side / short), 1)
        high = max(round(high * short_side / short), 1)
    return wide, high


def packets(
    media: av.container.InputContainer, streams: Sequence[Any]
) -> Iterator[av.Packet | MediaError]:
    """The packets of these streams, in the file's order.

    Where the file breaks off in the middle, a MediaError comes last: given, not raised, because
    what was read before is still good.
    """
    if not streams:
        return
    try:
        yield from media.demux(*streams)
    except DECODE_ERRORS as error:
        yield MediaError("truncated", f"reading stopped early ({error})")


def best_pictures(media: av.container.InputContainer) -> Any | None:
    """The video stream FFmpeg would show; a cover picture of a song is none."""
    moving = [s for s in media.streams.video if not _is_cover(s)]
    best = media.streams.best("video") if moving else None
    return best if best in moving else (moving[0] if moving else None)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


class PictureDecoder:
    """Turns the packets of one video stream into RGB frames at an even or the file's own rate.

    Args:
        stream: of a container opened by `open_media`.
        fps: frames per second to take, by timestamps (`sampling.resample_indices`); None: all.
        short_side, max_aspect: see `picture_size`.
        max_seconds: nothing later is decoded.
        max_pixels: a larger picture is refused before memory is taken for it.

    Attributes:
        done: nothing more is wanted. cut: the clip went on after `max_seconds`.
        errors: packets and pictures that could not be decoded. decoded: pictures that could,
            damaged: of which the decoder had to make up a part.
        taken: frames given out. seconds: when the last picture goes.

    Raises:
        MediaError: the stream can't be decoded, or is too large.
    """

    def __init__(
        self,
        stream: Any,
        *,
        fps: float | None,
        short_side: int,
        max_aspect: float,
        max_seconds: float,
        max_pixels: int,
    ) -> None:
        codec = stream.codec_context
        if codec is None:
            raise MediaError("no_decoder", "the pictures are in a format FFmpeg can't decode")
        if codec.width * codec.height > max_pixels:
            raise MediaError(
                "too_large",
                f"pictures of {codec.width}x{codec.height} have more than {max_pixels} pixels; "
                "raise max_pixels to use them",
            )
        # Several actors run side by side on a machine: one thread each.
        codec.thread_count = 1
        codec.options = {**codec.options, "max_pixels": str(max_pixels)}
        self._fps, self._short_side, self._max_aspect = fps, short_side, max_aspect
        self._max_seconds, self._max_pixels = max_seconds, max_pixels
        self._gap = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        self._promised_packets, self._promised_seconds = stream.frames, stream.frames * self._gap
        self.stream = stream
        self._reformatter = VideoReformatter()
        self._start: float | None = None
        self._time = 0.0
        self._held: av.VideoFrame | None = None
        self._layout: tuple[int, int, int] | None = None
        self.source_size: tuple[int, int] | None = None
        self.errors = self.damaged = self.decoded = self.taken = self._packets = 0
        self.done = self.cut = False

    @property
    def rotation(self) -> int:
        """Degrees, counter-clockwise, by which the frames were turned to stand upright."""
        return 90 * self._layout[2] if self._layout else 0

    @property
    def seconds(self) -> float:
        """From the first picture's coming to the last one's going."""
        return min(self._time + self._gap, self._max_seconds) if self.decoded else 0.0

    @property
    def rate(self) -> float | None:
        """Frames taken per second; None where there is but one."""
        if self._fps is not None:
            return self._fps
        return (self.taken - 1) / self._time if self.taken > 1 and self._time > 0 else None

    @property
    def truncated(self) -> bool:
        """The header promises clearly more pictures and time than the file holds."""
        # Both: an AVI file counts pictures that are but repeated, and has no bytes for them.
        fewer = self._packets < 0.95 * self._promised_packets - 1
        return fewer and not self.cut and self.seconds < 0.95 * self._promised_seconds

    def decode(self, packet: av.Packet | None) -> Iterator[np.ndarray]:
        """The frames, uint8 (H, W, 3), that this packet completes (None: the last ones).

        Damage is counted in errors.
        """
        if self.done:
            return
        self._packets += packet is not None and packet.size > 0
        try:
            pictures = self.stream.codec_context.decode(packet)
        except av.error.EOFError:  # already told that there is no more
            return
        except DECODE_ERRORS:
            self.errors += 1
            return
        for picture in pictures:
            if not self.done:
                yield from self._take(picture)

    def finish(self) -> Iterator[np.ndarray]:
        """The frames still held back when there are no more packets."""
        yield from self.decode(None)
        if self._held is not None:
            yield from self._show(until=self.seconds)
        self._held, self.done = None, True

    def _take(self, picture: av.VideoFrame) -> Iterator[np.ndarray]:
        if picture.width * picture.height > self._max_pixels:
            self.errors += 1
            return
        seconds = self._clock(picture)
        if seconds >= self._max_seconds or self.decoded >= self._max_seconds * MAX_RATE:
            if self._held is not None:
                yield from self._show(until=min(seconds, self._max_seconds))
            self._held, self.done, self.cut = None, True, True
            return
        self.decoded += 1
        self.damaged += bool(picture.is_corrupt)
        if self._fps is None:
            yield from self._rgb(picture, times=1)
        else:
            if self._held is not None:
                yield from self._show(until=seconds)
            self._held = picture
        self._gap = self._shown_for(picture, seconds)
        self._time = seconds

    def _show(self, *, until: float) -> Iterator[np.ndarray]:
        """Gives the held picture once for each tick before `until` that none was given for."""
        assert self._held is not None and self._fps is not None
        due = ticks_before(until, fps=self._fps) - self.taken
        if due > 0:
            before = self.taken
            yield from self._rgb(self._held, times=due)
            self.taken = max(self.taken, before + due)  # an unusable picture leaves no hole

    def _clock(self, picture: av.VideoFrame) -> float:
        """Seconds since the first picture; never falling, whatever the timestamps do."""
        time = picture.time
        if time is None or not math.isfinite(time):
            return self._time + self._gap if self.decoded else 0.0
        if self._start is None:
            self._start = time - (self._time + self._gap if self.decoded else 0.0)
        return max(time - self._start, self._time)

    def _shown_for(self, picture: av.VideoFrame, seconds: float) -> float:
        length = float((picture.duration or 0) * (picture.time_base or 0))
        return length if length > 0 else max(seconds - self._time, 0) or self._gap

    def _rgb(self, picture: av.VideoFrame, *, times: int) -> Iterator[np.ndarray]:
        try:
            image = self._convert(picture)
        except DECODE_ERRORS:
            self.errors += 1
            return
        for _ in range(times):
            self.taken += 1
            yield image

    def _convert(self, picture: av.VideoFrame) -> np.ndarray:
        """Scales and converts in one go (swscale widens its filter when it shrinks: no aliasing).

        The first picture settles size and rotation; one that differs later is fitted to them.
        """
        if self._layout is None:
            turns = round(picture.rotation / 90) % 4
            self.source_size = (picture.width, picture.height)
            self._layout = (*self._kept_size(picture), turns)
        width, height, turns = self._layout
        image = self._reformatter.reformat(
            picture, width, height, "rgb24", interpolation="BILINEAR", threads=1
        ).to_ndarray()
        return np.rot90(image, turns) if turns else image

    def _kept_size(self, picture: av.VideoFrame) -> tuple[int, int]:
        return picture_size(
            width=picture.width,
            height=picture.height,
            short_side=self._short_side,
            max_aspect=self._max_aspect,
        )

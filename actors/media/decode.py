"""Decoding of video frames: at an even rate, upright, and of bounded size."""

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
"""Exceptions of PyAV for invalid data (ValueError: for a format that it can't convert)."""

SMALLEST_SIDE = 16
"""Pixels; pictures with a shorter side are enlarged, because flow has a smallest frame size."""

MAX_RATE = 240.0
"""Largest number of frames per second; bounds files with constant timestamps."""

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
    """Opens a local media file; other files or addresses that it refers to are not opened.

    Raises:
        MediaError: the file does not exist, is no regular file, is empty, or is no media file.
    """
    _check_file(path)
    av.logging.set_level(av.logging.PANIC)
    try:
        media = av.open(
            "file:" + os.path.abspath(path),
            metadata_errors="replace",  # a real HMDB-51 clip has a title that is not UTF-8
            options={"protocol_whitelist": "file"},  # a playlist must not access the network
        )
    except DECODE_ERRORS as error:
        raise MediaError("unreadable", f"{path}: {_reason(error)}") from error
    try:
        # FFmpeg would render such files: their text, or files that they refer to.
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
            raise MediaError("not_a_file", f"{path}: not a regular file")
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
    """Describes PyAV's error for the owner of the file."""
    if isinstance(error, av.error.EOFError):
        return "ends before any picture or sound is described"
    if isinstance(error, av.error.InvalidDataError):
        return "not a video or sound file that FFmpeg knows, or its beginning is damaged"
    return f"can't be opened ({getattr(error, 'strerror', None) or error})"


def picture_size(*, width: int, height: int, short_side: int, max_aspect: float) -> tuple[int, int]:
    """Returns the size (width, height) at which a picture is kept.

    The shorter side is reduced to `short_side`. Smaller pictures keep their size, except that a
    shorter side below 16 pixels is enlarged to 16. Pictures thinner than 1:`max_aspect` are
    widened.

    Raises:
        ValueError: the width or height is below 1.
    """
    if width < 1 or height < 1:
        raise ValueError(f"width={width}, height={height}: both must be at least 1")
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
    """Yields the packets of these streams in the file's order.

    If the file is truncated, the last item is a `MediaError`. It is yielded, not raised, because
    the packets before it are valid.
    """
    if not streams:
        return
    try:
        yield from media.demux(*streams)
    except DECODE_ERRORS as error:
        yield MediaError("truncated", f"reading stopped early ({error})")


def best_pictures(media: av.container.InputContainer) -> Any | None:
    """Returns the video stream that FFmpeg selects, or None; cover pictures do not count."""
    moving = [s for s in media.streams.video if not _is_cover(s)]
    best = media.streams.best("video") if moving else None
    return best if best in moving else (moving[0] if moving else None)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


class PictureDecoder:
    """Decodes the packets of one video stream to RGB frames, at an even rate or the file's own.

    Args:
        stream: video stream of a container from `open_media`.
        fps: frames per second, sampled by timestamps (`sampling.resample_indices`); None: all.
        short_side, max_aspect: see `picture_size`.
        max_seconds: later pictures are not decoded.
        max_pixels: larger pictures are rejected before memory is allocated for them.

    Attributes:
        done: whether no more packets are needed.
        cut: whether the stream continues after `max_seconds`.
        errors: number of packets and pictures that could not be decoded.
        decoded: number of decoded pictures.
        damaged: number of decoded pictures of which the decoder concealed errors.
        taken: number of frames yielded.
        source_size: (width, height) of the first picture in the file; None before it.

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
        # One thread each: several actors run on a machine.
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
        """Counter-clockwise rotation of the frames to upright, in degrees."""
        return 90 * self._layout[2] if self._layout else 0

    @property
    def seconds(self) -> float:
        """Seconds from the start of the first picture to the end of the last one."""
        return min(self._time + self._gap, self._max_seconds) if self.decoded else 0.0

    @property
    def rate(self) -> float | None:
        """Frames yielded per second; None for a single frame."""
        if self._fps is not None:
            return self._fps
        return (self.taken - 1) / self._time if self.taken > 1 and self._time > 0 else None

    @property
    def truncated(self) -> bool:
        """Whether the header declares clearly more pictures and time than the file holds."""
        # Both, because an AVI file counts repeated pictures, which have no bytes.
        fewer = self._packets < 0.95 * self._promised_packets - 1
        return fewer and not self.cut and self.seconds < 0.95 * self._promised_seconds

    def decode(self, packet: av.Packet | None) -> Iterator[np.ndarray]:
        """Yields the frames, uint8 (H, W, 3), that this packet completes (None: the last ones).

        Errors are counted, not raised.
        """
        if self.done:
            return
        self._packets += packet is not None and packet.size > 0
        try:
            pictures = self.stream.codec_context.decode(packet)
        except av.error.EOFError:  # the decoder was flushed before
            return
        except DECODE_ERRORS:
            self.errors += 1
            return
        for picture in pictures:
            if not self.done:
                yield from self._take(picture)

    def finish(self) -> Iterator[np.ndarray]:
        """Yields the remaining frames after the last packet."""
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
        """Yields the held picture once for each remaining tick before `until`."""
        assert self._held is not None and self._fps is not None
        due = ticks_before(until, fps=self._fps) - self.taken
        if due > 0:
            before = self.taken
            yield from self._rgb(self._held, times=due)
            self.taken = max(self.taken, before + due)  # a failed conversion leaves no gap

    def _clock(self, picture: av.VideoFrame) -> float:
        """Seconds since the first picture; never decreasing, even if timestamps are."""
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
        """Scales and converts in one step (swscale widens its filter in a reduction: no aliasing).

        The first picture determines size and rotation; later ones are fitted to them.
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

"""Small media files made for the tests: what is in them is known."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving_square(n: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (n, H, W, 3): a bright square that goes right by one pixel per frame."""
    frames = np.full((n, height, width, 3), 40, np.uint8)
    for i in range(n):
        x = i % (width - 12)
        frames[i, 16:28, x : x + 12] = (220, 120, 60)
    return frames


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    rate: int = 25,
    codec: str = "ffv1",
    pixel_format: str = "bgr0",
    times: list[float] | None = None,
    sound: np.ndarray | None = None,
    sound_rate: int = 16_000,
    sound_codec: str = "pcm_s16le",
) -> Path:
    """Writes frames (n, H, W, 3), at these seconds or evenly, and sound float32 (channels, n)."""
    with av.open(str(path), "w") as media:
        stream = media.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, 1000)
        heard = _add_sound(media, sound, sound_rate, sound_codec) if sound is not None else None
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            seconds = times[i] if times else i / rate
            picture.pts, picture.time_base = round(seconds * 1000), Fraction(1, 1000)
            media.mux(stream.encode(picture))
        media.mux(stream.encode(None))
        if heard is not None:
            _write_sound(media, heard, sound, sound_rate)
    return path


def write_sound(
    path: Path, sound: np.ndarray, *, rate: int = 16_000, codec: str = "pcm_s16le"
) -> Path:
    """Writes float32 sound (channels, n)."""
    with av.open(str(path), "w") as media:
        _write_sound(media, _add_sound(media, sound, rate, codec), sound, rate)
    return path


def _add_sound(media, sound, rate, codec):
    layout = {1: "mono", 2: "stereo", 8: "7.1", 16: "hexadecagonal"}[len(sound)]
    return media.add_stream(codec, rate=rate, layout=layout)


def _write_sound(media, stream, sound, rate):
    layout = stream.layout.name
    converter = av.AudioResampler(stream.format.name, layout, rate)
    for start in range(0, sound.shape[1], 1024):
        block = np.ascontiguousarray(sound[:, start : start + 1024].T, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        # PyAV's encoder converts such frames itself, but not those of many channels.
        for converted in converter.resample(frame):
            media.mux(stream.encode(converted))
    for converted in converter.resample(None):
        media.mux(stream.encode(converted))
    media.mux(stream.encode(None))


def sine(
    seconds: float, *, frequency: float = 1000.0, rate: int = 16_000, amplitude: float = 0.5
) -> np.ndarray:
    """float32 (n,)."""
    t = np.arange(int(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * t)).astype(np.float32)


def brightness_flow(gray: np.ndarray) -> np.ndarray:
    """Stands for a flow engine: x is half the change in brightness, y minus that."""
    change = (gray[1:].astype(np.float32) - gray[:-1]) / 2
    return np.stack([change, -change], axis=1)

"""Sound: conversion of any sample format to one channel at one rate, and the STFT spectrogram.

The spectrogram is computed while the file is read, so only its columns are in memory.
"""

from __future__ import annotations

import math
from typing import Any

import av
import numpy as np
import torch
import torchaudio.functional as audio

from actors.errors import MediaError
from actors.extract_settings import SoundSettings

FLOOR_DB = -100.0
"""dB relative to a full-scale sine; smallest value of a band, about 16-bit rounding noise."""

MEAN_DB = -70.0
SPREAD_DB = 20.0
"""The same for all clips, so that loudness is preserved; about the mean and standard deviation of
everyday recordings (esc10, fight_surv)."""

_SECONDS_AT_ONCE = 1.0
_MAX_PLANES = 8
"""Channels, each in a plane of its own, from which on PyAV 18.1 reads past the last one (7.1!)."""
_NO_ARRAY = "s64"
"""A format of samples that PyAV does not turn into an array."""
_PACKED_FLOAT = "flt"
_FULL_SCALE = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31}


class Spectrogram:
    """Computes a log-magnitude STFT from blocks of samples; it does not depend on the blocks.

    Column k is centered on sample k * hop, with zeros outside of the sound. Values are
    (dB - MEAN_DB) / SPREAD_DB; a full-scale sine has 0 dB.
    """

    def __init__(self, settings: SoundSettings) -> None:
        self.settings = settings
        self._window = torch.hann_window(settings.n_fft)
        self._rest = np.zeros(settings.n_fft // 2, np.float32)
        self._columns: list[np.ndarray] = []

    def add(self, samples: np.ndarray) -> None:
        """Adds samples, float32 (n,) in -1..1."""
        s = self.settings
        waiting = np.concatenate([self._rest, samples])
        count = (len(waiting) - s.n_fft) // s.hop + 1
        if count < 1:
            self._rest = waiting
            return
        self._rest = waiting[count * s.hop :]
        self._columns.append(self._bands(torch.from_numpy(waiting)))

    def finish(self) -> np.ndarray:
        """Returns the whole spectrogram: float16 (bands, T), T = 1 + samples // hop."""
        self.add(np.zeros(self.settings.n_fft - self.settings.n_fft // 2, np.float32))
        return np.concatenate(self._columns, axis=1)

    def _bands(self, block: torch.Tensor) -> np.ndarray:
        s = self.settings
        power = audio.spectrogram(
            block,
            pad=0,
            window=self._window,
            n_fft=s.n_fft,
            hop_length=s.hop,
            win_length=s.n_fft,
            power=2.0,
            normalized=False,
            center=False,
        )
        # The peak of a sine of amplitude 1 is half the sum of the window.
        power = power[1:] / (self._window.sum() / 2) ** 2
        rows = torch.nn.functional.adaptive_avg_pool2d(power[None], (s.bands, power.shape[1]))[0]
        decibels = 10 * torch.log10(rows.clamp_min(10 ** (FLOOR_DB / 10)))
        return ((decibels - MEAN_DB) / SPREAD_DB).half().numpy()


def spectrogram(samples: np.ndarray, settings: SoundSettings) -> np.ndarray:
    """Returns the spectrogram of a whole soundtrack: float32 (n,) to float16 (bands, T)."""
    builder = Spectrogram(settings)
    builder.add(np.asarray(samples, np.float32))
    return builder.finish()


def to_mono(frame: av.AudioFrame) -> np.ndarray:
    """One decoded frame in any sample format as float32 (n,), 1 = full: its channels' mean."""
    name, channels = frame.format.packed.name, len(frame.layout.channels)
    if name == _NO_ARRAY or (frame.format.is_planar and channels >= _MAX_PLANES):
        packed = av.AudioResampler(_PACKED_FLOAT, frame.layout, frame.sample_rate)
        return np.concatenate([to_mono(f) for f in packed.resample(frame) + packed.resample(None)])
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, channels).T
    mean = samples.mean(axis=0, dtype=np.float64 if name in ("s32", "dbl") else np.float32)
    if name == "u8":
        mean -= _FULL_SCALE[name]
    return (mean / _FULL_SCALE.get(name, 1.0)).astype(np.float32)


class SoundDecoder:
    """Decodes the packets of one audio stream and computes their spectrogram.

    Args:
        stream: audio stream of a container from `decode.open_media`.
        settings: settings of the spectrogram.
        max_seconds: later samples are not used.

    Attributes:
        done: whether no more packets are needed.
        cut: whether the sound continues after `max_seconds`.
        errors: number of packets that could not be decoded.
        samples: number of samples so far, at the settings' rate.
        peak: largest absolute sample.

    Raises:
        MediaError: the stream can't be decoded.
    """

    def __init__(self, stream: Any, *, settings: SoundSettings, max_seconds: float) -> None:
        if stream.codec_context is None:
            raise MediaError("no_decoder", "the sound is in a format FFmpeg can't decode")
        stream.codec_context.thread_count = 1
        self.stream, self.settings = stream, settings
        self._spectrogram = Spectrogram(settings)
        self._limit = int(max_seconds * settings.sample_rate)
        self._rate = 0
        self._resampler: av.AudioResampler | None = None
        self._waiting: list[np.ndarray] = []
        self._waiting_samples = 0
        self.errors = self.samples = 0
        self.peak = 0.0
        self.done = self.cut = False

    @property
    def seconds(self) -> float:
        """Duration of the decoded sound in seconds."""
        return self.samples / self.settings.sample_rate

    def decode(self, packet: av.Packet | None) -> None:
        """Decodes a packet (None: flushes the decoder). Errors are counted, not raised."""
        if self.done:
            return
        try:
            for frame in self.stream.codec_context.decode(packet):
                if frame.samples and not self.done:
                    self._take(frame)
        except av.error.EOFError:  # the decoder was flushed before
            return
        except (av.FFmpegError, ValueError):
            self.errors += 1

    def finish(self) -> tuple[np.ndarray, None] | tuple[None, MediaError]:
        """Returns the spectrogram, float16 (bands, T), or the reason why there is none."""
        self.decode(None)
        try:
            self._change_rate(0)
        except (av.FFmpegError, ValueError):
            self.errors += 1
        self.done = True
        if self.samples == 0:
            broken = f"none of the sound stream's {self.errors} packets can be decoded"
            return None, MediaError("empty", broken if self.errors else "the sound stream is empty")
        level = 20 * math.log10(self.peak) if self.peak > 0 else -math.inf
        if level < self.settings.silence_dbfs:
            return None, MediaError(
                "silent",
                f"the sound is silent: its peak of {level:.0f} dB is below silence_dbfs="
                f"{self.settings.silence_dbfs:g}",
            )
        return self._spectrogram.finish(), None

    def _take(self, frame: av.AudioFrame) -> None:
        if frame.sample_rate != self._rate:
            self._change_rate(frame.sample_rate)
        self._waiting.append(to_mono(frame))
        self._waiting_samples += frame.samples
        if self._waiting_samples >= _SECONDS_AT_ONCE * self._rate:
            self._resample_waiting()

    def _change_rate(self, rate: int) -> None:
        """Resamples the waiting samples of the old rate and sets the new one (0: the end)."""
        self._resample_waiting()
        if self._resampler is not None:
            self._add(self._resampler.resample(None))
        self._rate, wanted = rate, self.settings.sample_rate
        self._resampler = (
            av.AudioResampler("fltp", "mono", wanted) if rate not in (0, wanted) else None
        )

    def _resample_waiting(self) -> None:
        if not self._waiting:
            return
        # Float formats may hold any value: NaN becomes silence, and large values are clipped.
        samples = np.clip(np.nan_to_num(np.concatenate(self._waiting)), -1, 1)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = self._rate
        self._waiting, self._waiting_samples = [], 0
        self._add([frame] if self._resampler is None else self._resampler.resample(frame))

    def _add(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            samples = np.clip(frame.to_ndarray()[0], -1, 1)
            room = self._limit - self.samples
            if len(samples) > room:
                samples, self.cut, self.done = samples[:room], True, True
            if len(samples):
                self.peak = max(self.peak, float(np.abs(samples).max()))
                self.samples += len(samples)
                self._spectrogram.add(samples)

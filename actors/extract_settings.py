"""Settings of the extraction. Command lines are parsed with it: no slow imports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from actors.errors import UserError, nearest
from actors.flow.choice import RAFT, FlowMethod, choose
from actors.flow.settings import SMALLEST_SIDE, TVL1
from actors.neutral import neutral

Codec = Literal["raw", "zstd", "jpeg"]
CODECS: tuple[str, ...] = get_args(Codec)


def check_codec(codec: str) -> None:
    """Raises `UserError` if the codec does not exist; the message suggests similar names."""
    if codec not in CODECS:
        known = ", ".join(CODECS)
        raise UserError(f"codec {codec!r} does not exist ({known}){nearest(codec, CODECS)}")


@dataclass(frozen=True)
class SoundSettings:
    """Settings of the soundtrack's spectrogram.

    Raises:
        UserError: a value is out of its range.
    """

    sample_rate: int = 16_000
    """Samples per second after resampling; half of it is the highest frequency."""
    n_fft: int = 512
    """Samples per window (Hann): 32 ms at 16 kHz."""
    hop: int = 160
    """Samples between windows: 10 ms at 16 kHz, so 100 columns per second."""
    bands: int = 128
    """Rows: frequency bands of equal width, each the mean power of its bins (without DC)."""
    silence_dbfs: float = -80.0
    """dB of full scale; a soundtrack with a lower peak is silent, and its track is absent."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "hop", "bands"):
            if getattr(self, name) < 1:
                raise UserError(f"sound: {name} is {getattr(self, name)!r}; it must be at least 1")
        if self.bands > self.n_fft // 2:
            raise UserError(
                f"sound: bands is {self.bands}, but n_fft={self.n_fft} samples have only "
                f"{self.n_fft // 2} frequencies; choose fewer bands or a longer window"
            )
        if self.hop > self.n_fft:
            raise UserError(
                f"sound: hop is {self.hop}, longer than the window of n_fft={self.n_fft} samples, "
                "which would skip sound; choose a shorter hop"
            )

    @property
    def columns_per_second(self) -> float:
        """Columns of the spectrogram per second."""
        return self.sample_rate / self.hop


@dataclass(frozen=True)
class ExtractSettings:
    """Settings of the extraction: which frames, flow and sound of a video are kept, and how.

    The track `frames` depends on frame_every and frame_quality, `flow` on jpeg_quality, flow_bound,
    flow_method, flow and raft, both on fps, short_side, max_aspect, max_pixels and codec; `sound`
    depends on sound. max_seconds applies to all three.

    Raises:
        UserError: a value is out of its range.
    """

    fps: float | None = None
    """Frames per second, sampled by the file's timestamps; null: every frame of the file."""
    frame_every: int = 1
    """Every n-th sampled frame is kept as RGB; flow is computed between all sampled frames."""
    short_side: int = 256
    """Pixels of the shorter side of kept frames; smaller frames are not enlarged."""
    max_aspect: float = 4.0
    """Largest ratio of the sides; frames that exceed it are widened."""
    max_seconds: float = 600.0
    """Seconds; longer videos are cut, which the artifact records."""
    max_pixels: int = 40_000_000
    """Largest number of pixels of a frame; larger ones are rejected. 8K has 33 million."""
    window: int = neutral(64)
    """Number of frames in memory at a time."""
    codec: Codec = "jpeg"
    """Encoding of frames and flow: jpeg (small), zstd (lossless) or raw (fastest to read)."""
    jpeg_quality: int = 85
    """JPEG quality of flow fields, 1 to 100."""
    frame_quality: int = 90
    """JPEG quality of RGB frames, 1 to 100."""
    flow_bound: float = 20.0
    """Largest displacement in pixels per frame; larger ones are clipped in the quantization."""
    flow_method: FlowMethod = "tvl1"
    """tvl1: TV-L1 with the parameters in flow; exact or fast: TV-L1 with the parameters of that
    schedule; raft: the network RAFT with the parameters in raft."""
    flow: TVL1 = field(default_factory=TVL1)
    """Parameters of TV-L1; used by flow_method tvl1."""
    raft: RAFT = field(default_factory=RAFT)
    """Parameters of RAFT; used by flow_method raft."""
    sound: SoundSettings = field(default_factory=SoundSettings)
    """Parameters of the spectrogram."""

    def __post_init__(self) -> None:
        check_codec(self.codec)
        choose(self.flow_method, self.flow, self.raft)
        for name in ("frame_every", "window", "max_pixels"):
            _at_least(name, getattr(self, name), 1)
        _at_least("short_side", self.short_side, SMALLEST_SIDE)
        _at_least("max_aspect", self.max_aspect, 1)
        if self.fps is not None:
            _above_zero("fps", self.fps)
        _above_zero("max_seconds", self.max_seconds)
        _above_zero("flow_bound", self.flow_bound)
        for name in ("jpeg_quality", "frame_quality"):
            if not 1 <= getattr(self, name) <= 100:
                raise UserError(f"extract: {name} is {getattr(self, name)!r}; choose 1 to 100")

    @property
    def chosen_flow(self) -> TVL1 | RAFT:
        """Parameters of the chosen flow method."""
        return choose(self.flow_method, self.flow, self.raft)


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise UserError(f"extract: {name} is {value!r}; it must be at least {least}")


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"extract: {name} is {value!r}; it must be above 0 and finite")

"""What can be set about the extraction. Light: reading a command line imports it."""

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
    """Raises UserError for a codec that does not exist, with the nearest names."""
    if codec not in CODECS:
        known = ", ".join(CODECS)
        raise UserError(f"codec {codec!r} does not exist ({known}){nearest(codec, CODECS)}")


@dataclass(frozen=True)
class SoundSettings:
    """How the soundtrack becomes a spectrogram.

    Raises:
        UserError: a value is out of its range.
    """

    sample_rate: int = 16_000
    """Samples per second after resampling; the spectrogram reaches up to half of it."""
    n_fft: int = 512
    """Samples per window (Hann): 32 ms at 16 kHz."""
    hop: int = 160
    """Samples between windows: 10 ms at 16 kHz, so 100 columns per second."""
    bands: int = 128
    """Rows: equally wide frequency bands, each the mean power of its bins (without DC)."""
    silence_dbfs: float = -80.0
    """A soundtrack whose loudest sample is below this (dB of full scale) is absent."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "hop", "bands"):
            if getattr(self, name) < 1:
                raise UserError(f"sound: {name} is {getattr(self, name)!r}; it must be at least 1")
        if self.bands > self.n_fft // 2:
            raise UserError(
                f"sound: bands is {self.bands}, but n_fft={self.n_fft} samples have only "
                f"{self.n_fft // 2} frequencies; take fewer bands or a longer window"
            )
        if self.hop > self.n_fft:
            raise UserError(
                f"sound: hop is {self.hop}, longer than the window of {self.n_fft} samples; "
                "sound would be skipped"
            )

    @property
    def columns_per_second(self) -> float:
        return self.sample_rate / self.hop


@dataclass(frozen=True)
class ExtractSettings:
    """What is taken from a video and how it is kept.

    Raises:
        UserError: a value is out of its range.
    """

    fps: float | None = None
    """Frames per second to take, by the file's timestamps; null: every frame of the file."""
    frame_every: int = 1
    """Keep every n-th taken frame as RGB; flow is found between all taken frames."""
    short_side: int = 256
    """Pixels of a kept frame's shorter side; smaller frames are not enlarged."""
    max_aspect: float = 4.0
    """Frames thinner than this are widened: flow and networks need some room."""
    max_seconds: float = 600.0
    """Longer videos are cut here (and the artifact says so)."""
    max_pixels: int = 40_000_000
    """Pictures with more pixels than this are refused; 8K has 33 million."""
    window: int = neutral(64)
    """Frames in memory at a time; the result does not depend on it."""
    codec: Codec = "jpeg"
    """How frames and flow are kept: jpeg (small), zstd (lossless) or raw (fastest to read)."""
    jpeg_quality: int = 85
    """JPEG quality of flow fields, 1 to 100."""
    frame_quality: int = 90
    """JPEG quality of RGB frames, 1 to 100."""
    flow_bound: float = 20.0
    """Pixels per frame; larger displacements are clipped when flow becomes bytes."""
    flow_method: FlowMethod = "tvl1"
    """tvl1: TV-L1 with the parameters under flow; exact or fast: TV-L1 on the schedule of that
    name; raft: the network RAFT with the parameters under raft."""
    flow: TVL1 = field(default_factory=TVL1)
    """Parameters of TV-L1, for flow_method tvl1."""
    raft: RAFT = field(default_factory=RAFT)
    """The network, for flow_method raft."""
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
        """The parameters that flow is found with."""
        return choose(self.flow_method, self.flow, self.raft)


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise UserError(f"extract: {name} is {value!r}; it must be at least {least}")


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"extract: {name} is {value!r}; it must be above 0 and finite")

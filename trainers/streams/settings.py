"""Settings of one stream's network and of how samples are cut from its clips."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import UserError, nearest
from actors.streams import AUDIO, MOTION, SPATIAL, STREAMS
from trainers.settings import NetworkSettings, OptimizerSettings


@dataclass(frozen=True)
class StreamSettings:
    """How one stream's network is built, fed and fitted.

    The defaults are the published ones of the spatial stream; `default_stream_settings` gives each
    stream its own.
    """

    network: NetworkSettings = NetworkSettings()
    """The network and the weights it starts from."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer, schedule, validation and checkpoints."""
    crop: int | None = 224
    """Side in pixels of the square cut from frames and flow fields (a smaller picture is scaled up
    to it); for audio the side that the spectrogram's window is resized to, or null for as it is."""
    stack: int = 10
    """Flow fields in a stack, L; the motion network has 2L input channels."""
    window_seconds: float = 4.0
    """Seconds of sound in one audio sample; a shorter clip is repeated."""
    flip: bool = True
    """Mirror every second sample in training, negating the x displacements of flow. Turn it off
    where left and right tell classes apart. Sound is never mirrored."""
    color_jitter: float = 0.0
    """Frames only: in training each color of a sample is made stronger or weaker by up to this
    share (Simonyan and Zisserman, 2014, jitter colors as well; the paper crops and flips)."""
    subtract_mean_flow: bool = False
    """Subtract its mean from every flow field, against a moving camera."""
    samples_per_clip: int = 1
    """Samples cut from a clip each time its turn comes in training."""
    validation_samples: int = 5
    """Uniformly spaced samples per validation clip whose mean score counts while training."""
    class_weights: bool = False
    """Weigh classes by their inverse frequency in the loss."""
    open_files: int = 256
    """Artifacts kept open at a time."""
    cache_mb: int = 512
    """Megabytes of decoded frames, fields and spectrograms kept in memory; 0 keeps none."""

    def __post_init__(self) -> None:
        for name in ("stack", "samples_per_clip", "validation_samples", "open_files"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.crop is not None and self.crop < 8:
            raise UserError(f"crop must be at least 8 pixels, not {self.crop}")
        if not self.window_seconds > 0:
            raise UserError(f"window_seconds must be above 0, not {self.window_seconds}")
        if not 0 <= self.color_jitter < 1:
            raise UserError(f"color_jitter must be in [0, 1), not {self.color_jitter}")
        if self.cache_mb < 0:
            raise UserError(f"cache_mb must be 0 or more, not {self.cache_mb}")
        if self.optimizer.batch_size % self.samples_per_clip:
            raise UserError(
                f"samples_per_clip {self.samples_per_clip} must divide the batch size "
                f"{self.optimizer.batch_size}"
            )


def input_channels(stream: str, settings: StreamSettings) -> int:
    """Channels of a stream's samples: 3 for frames, 2L for stacks, 1 for spectrograms."""
    return {SPATIAL: 3, MOTION: 2 * settings.stack, AUDIO: 1}[stream]


def default_stream_settings(stream: str) -> StreamSettings:
    """The published settings of a stream (Jiang et al., section IV-A-2).

    The paper gives networks, batch size, momentum, learning rates and their drops. Where it is
    silent: dropout 0.9 and 2048 units in fc7 for the motion network, and the end of fine-tuning
    at 20,000 steps, are those of the two-stream networks it builds on (Simonyan and Zisserman,
    2014, table 1 and section 5).

    Raises:
        UserError: there is no such stream.
    """
    if stream not in STREAMS:
        raise UserError(f"there is no stream {stream!r}{nearest(stream, STREAMS)}")
    if stream == SPATIAL:
        return StreamSettings()
    if stream == AUDIO:
        # The paper starts it from ImageNet as well; nobody publishes CNN-M weights in a form that
        # torchvision fetches, so a user who has them names the file.
        return StreamSettings(network=NetworkSettings(backbone="cnn_m", weights="none"), flip=False)
    return StreamSettings(
        network=NetworkSettings(backbone="cnn_m", weights="none", hidden_dim=2048, dropout=0.9),
        optimizer=OptimizerSettings(
            lr=1e-2, lr_drop_every=100_000, max_steps=250_000, evaluate_every=2_000
        ),
    )

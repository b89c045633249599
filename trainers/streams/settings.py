"""Settings of a stream: its track, how samples are cut from it, its encoder and what follows."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import UserError
from actors.neutral import neutral
from actors.tracks import FRAMES
from trainers.settings import (
    EmbeddingSettings,
    EncoderSettings,
    OptimizerSettings,
    SequenceSettings,
)


@dataclass(frozen=True)
class StreamSettings:
    """A stream: a track, samples of it, an encoder, and how they are fitted.

    The defaults are the published ones of Hybrid's spatial stream, without its LSTM.
    """

    track: str = FRAMES
    """What extraction keeps of a clip and the stream sees: frames, flow or sound."""
    samples: str = "auto"
    """How samples are cut from the track: frames, flow_stacks, spectrograms, or
    package.module:function; auto: the usual way of the track."""
    encoder: str = "torchvision:vgg19"
    """Network from a sample to features: own:NAME, torchvision:NAME, timm:NAME, or
    package.module:function."""
    weights: str | None = "imagenet"
    """Initial weights of the encoder: imagenet (from the library's cache or its server), the path
    of a .safetensors or .pt file, or none."""
    frozen: bool = False
    """Use the encoder as it is: it is not trained and gives features without class scores."""
    fine_tune_from: str | None = None
    """Name of the first layer that is trained; the layers before it stay as they are. null trains
    all."""
    dropout: float = 0.5
    """Share of units dropped in training: after each fully connected layer of the own encoders, in
    the dropout layers of a torchvision model, and before the classifier of other models."""
    feature_dim: int | None = None
    """Width of fc6, whose output is the feature, in the own encoders; null is the published one
    (cnn_m 4096, the small ones 128)."""
    hidden_dim: int | None = None
    """Width of fc7 in own:cnn_m; null is 4096."""
    crop: int | None = None
    """Side in pixels of the square cut from frames and flow fields (a smaller picture is scaled up
    to it), and which a spectrogram's window is resized to; null: the encoder's own size, or
    spectrograms as they are where it takes any size."""
    stack: int = 10
    """Flow fields in a stack, L; the encoder has 2L input channels."""
    window_seconds: float = 4.0
    """Seconds of sound in one sample; a shorter clip is repeated."""
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
    open_files: int = neutral(256)
    """Artifacts kept open at a time."""
    cache_mb: int = neutral(512)
    """Megabytes of decoded frames, fields and spectrograms kept in memory; 0 keeps none."""
    fit: OptimizerSettings = OptimizerSettings()
    """Fit of the encoder."""
    embed: EmbeddingSettings = EmbeddingSettings()
    """Embedding of the clips by the encoder."""
    sequence: SequenceSettings = SequenceSettings(model="none")
    """Sequence model over the features."""

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
        if self.fit.batch_size % self.samples_per_clip:
            raise UserError(
                f"samples_per_clip {self.samples_per_clip} must divide the batch size "
                f"{self.fit.batch_size}"
            )
        _ = self.encoder_settings  # which checks its own

    @property
    def encoder_settings(self) -> EncoderSettings:
        """The part that `trainers.encoders.factory.build_encoder` takes."""
        return EncoderSettings(
            name=self.encoder,
            weights=self.weights,
            frozen=self.frozen,
            fine_tune_from=self.fine_tune_from,
            dropout=self.dropout,
            feature_dim=self.feature_dim,
            hidden_dim=self.hidden_dim,
        )

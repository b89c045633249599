"""What can be set about networks and fits. Light: reading a command line imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actors.errors import UserError, nearest
from actors.neutral import neutral
from trainers.named import is_named


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer, schedule, validation and checkpoints of a fit.

    The defaults are the published ones of Hybrid's spatial CNN.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer."""
    lr: float = 1e-3
    """Learning rate at the first step."""
    momentum: float = 0.9
    """Momentum of SGD; first beta of Adam and AdamW."""
    weight_decay: float = 5e-4
    """Weight decay (the paper is silent; this is VGG's and CNN-M's own)."""
    batch_size: int = 256
    """Samples per step, over all workers together."""
    accumulate: int = 1
    """Parts a worker's share of the batch is cut into, one after another, to save memory."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient; null leaves it as it is."""
    max_steps: int = 20_000
    """Steps at most."""
    lr_drop_every: int | None = 14_000
    """Steps after which the learning rate is multiplied by `lr_drop_factor`; null never."""
    lr_drop_factor: float = 0.1
    """What the learning rate is multiplied by."""
    evaluate_every: int = 1_000
    """Steps between two looks at the validation clips."""
    patience: int | None = 10
    """Looks in a row without improvement after which fitting ends early; null never."""
    keep: Literal["score", "loss", "last"] = "score"
    """Whose weights are kept: of the look with the best score (of equal ones the least loss), of
    that with the least loss (steadier on few validation clips), or of the last step."""
    checkpoint_every: int = neutral(1_000)
    """Steps between two checkpoints."""
    mixed_precision: Literal["auto", "bf16", "fp16", "off"] = "auto"
    """Half precision on a GPU: auto takes bf16 where the GPU has it, else fp16. Never on a CPU."""
    loader_threads: int = neutral(4)
    """Threads that cut samples while the network is busy."""
    prefetch: int = neutral(4)
    """Batches kept ready."""

    def __post_init__(self) -> None:
        whole = "batch_size accumulate max_steps evaluate_every checkpoint_every loader_threads"
        for name in (*whole.split(), "prefetch", "lr_drop_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        for name in ("lr", "lr_drop_factor", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be above 0, not {value}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must be in [0, 1), not {self.momentum}")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay must be 0 or more, not {self.weight_decay}")
        if self.keep not in ("score", "loss", "last"):
            raise UserError(f"keep must be score, loss or last, not {self.keep!r}")
        if self.name not in ("sgd", "adam", "adamw"):
            raise UserError(f"optimizer must be sgd, adam or adamw, not {self.name!r}")
        if self.mixed_precision not in ("auto", "bf16", "fp16", "off"):
            raise UserError(
                f"mixed_precision must be auto, bf16, fp16 or off, not {self.mixed_precision!r}"
            )

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        drops = 0 if self.lr_drop_every is None else step // self.lr_drop_every
        return self.lr * self.lr_drop_factor**drops


@dataclass(frozen=True)
class EncoderSettings:
    """Which encoder, what it starts from, and which part of it is trained."""

    name: str = "torchvision:vgg19"
    """own:NAME, torchvision:NAME, timm:NAME, or package.module:function."""
    weights: str | None = "imagenet"
    """Initial weights: imagenet (from the library's cache or its server), the path of a
    .safetensors or .pt file, or none."""
    frozen: bool = False
    """Use the encoder as it is: it is not trained and gives features without class scores."""
    fine_tune_from: str | None = None
    """Name of the first layer that is trained; the layers before it stay as they are. null trains
    all."""
    dropout: float = 0.5
    """Share of units dropped in training: after each fully connected layer of the own encoders, in
    the dropout layers of a torchvision model, whatever rate it was published with, and before the
    classifier of models without such layers."""
    feature_dim: int | None = None
    """Width of fc6, whose output is the feature, in the own encoders; null is the published one
    (cnn_m 4096, the small ones 128)."""
    hidden_dim: int | None = None
    """Width of fc7 in own:cnn_m; null is 4096."""

    def __post_init__(self) -> None:
        check_encoder_name(self.name)
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), not {self.dropout}")
        for name in ("feature_dim", "hidden_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if self.frozen and self.fine_tune_from is not None:
            raise UserError(
                f"a frozen encoder is not trained, so fine_tune_from {self.fine_tune_from!r} has "
                "no meaning: set it to null, or frozen to false"
            )


def check_encoder_name(name: str) -> None:
    """Checks that an encoder's name says where the encoder comes from.

    Raises:
        UserError: it has no source before a colon.
    """
    source, _, rest = name.partition(":")
    if not source or not rest:
        raise UserError(
            f"encoder {name!r} does not say where it comes from: write own:NAME, "
            "torchvision:NAME (such as torchvision:vgg19), timm:NAME, or package.module:function"
        )


@dataclass(frozen=True)
class EmbeddingSettings:
    """Which samples of a clip are embedded."""

    max_steps: int = 50
    """Longest feature sequence; a longer clip is sampled evenly."""
    test_samples: int = 25
    """Uniformly spaced samples whose class scores are averaged."""
    batch_size: int = 64
    """Samples that go through the encoder together."""
    half_precision: bool = True
    """Half precision on a GPU."""
    precision: Literal["fp32", "channels_last", "bf16", "auto"] = "fp32"
    """On a CPU: fp32; channels_last (fp32, up to twice as fast, other last digits); bf16 with
    channels last (cosine similarity of the features to those of fp32 0.9999 or more, several times
    as fast on CPUs with AVX512-BF16); auto: bf16 where the job's driver has such a CPU, else
    channels_last."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "test_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.precision not in ("fp32", "channels_last", "bf16", "auto"):
            raise UserError(
                f"precision must be fp32, channels_last, bf16 or auto, not {self.precision!r}"
            )


@dataclass(frozen=True)
class SequenceSettings:
    """A stream's sequence model and its fit (defaults: Jiang et al., section IV-A-2)."""

    model: str = "lstm"
    """lstm (PyTorch's), peephole (its gates see the cell, as in the paper's equations),
    package.module:function, or none: the stream has no sequence model."""
    hidden: tuple[int, ...] = (1024, 512)
    """Units of the stacked layers, from the input up."""
    dropout: float = 0.0
    """Share of units dropped between layers and before the classifier in training."""
    input_dropout: float = 0.0
    """Share of the features dropped in training."""
    input_noise: float = 0.0
    """Standard deviation of the noise added to standardized features in training, in units of
    theirs; on few clips it covers the marks that the encoder's own training left in them."""
    standardize: bool = True
    """Shift and scale each feature to zero mean and unit variance over the training clips."""
    class_weights: bool = False
    """Weigh classes by their inverse frequency in the loss."""
    cache_mb: int = neutral(2048)
    """Megabytes of feature sequences kept in memory."""
    fit: OptimizerSettings = OptimizerSettings(
        lr=1e-4,
        batch_size=10,
        weight_decay=0.0,
        max_steps=150_000,
        lr_drop_every=None,
        clip_norm=5.0,
        evaluate_every=1_000,
        patience=20,
        mixed_precision="off",
    )
    """Optimizer, schedule, validation and checkpoints."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise UserError(f"hidden must name at least one layer of 1 unit, not {self.hidden}")
        check_sequence_name(self.model)
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), not {self.dropout}")
        if not 0 <= self.input_dropout < 1:
            raise UserError(f"input_dropout must be in [0, 1), not {self.input_dropout}")
        if self.input_noise < 0:
            raise UserError(f"input_noise must be 0 or more, not {self.input_noise}")
        if self.cache_mb < 0:
            raise UserError(f"cache_mb must be 0 or more, not {self.cache_mb}")

    @property
    def present(self) -> bool:
        """Whether there is a sequence model at all."""
        return self.model != "none"


SEQUENCE_MODELS = ("none", "lstm", "peephole")
"""Names of the sequence models that come with Multiclue, and of there being none."""


def check_sequence_name(name: str) -> None:
    """Checks that a sequence model's name is known, or that of a user's function.

    Raises:
        UserError: it is neither.
    """
    if name not in SEQUENCE_MODELS and ":" not in name:
        raise UserError(
            f"there is no sequence model {name!r}: choose {', '.join(SEQUENCE_MODELS)} or "
            f"package.module:function{nearest(name, SEQUENCE_MODELS)}"
        )


@dataclass(frozen=True)
class FusionSettings:
    """The fusion network and its training (Hybrid paper, section IV-A)."""

    model: str = "regularized"
    """regularized: the paper's network; package.module:function: a function of your own, which gets
    the clips and these settings and returns a fitted model (see trainers.fusion.contract)."""
    hidden: int = 200
    """Units of each feature's layer, and of the fusion layer."""
    learning_rate: float = 0.7
    """Step size of plain gradient descent; the proximal step uses it too."""
    lambda1: float = 3e-5
    """Weight of Phi, half the sum of squares of all weight matrices (biases are free)."""
    lambda2: float = 0.0
    """Weight of the fusion layer's row norm: used as it is when search.trials is 0; else the search
    chooses it."""
    lambda3: float = 0.0
    """Weight of the fusion layer's absolute entries: used as it is when search.trials is 0; else
    the search chooses it."""
    max_epochs: int = 200
    """Most passes over the training clips."""
    batch_size: int = 100
    """Clips per gradient step."""
    patience: int = 30
    """Epochs without a better validation score after which training stops."""
    activation: Literal["tanh", "sigmoid"] = "tanh"
    """Activation of the two hidden layers."""
    absent: Literal["learned", "zero"] = "learned"
    """What stands in for a stream that a clip lacks: a learned vector, or zero (the mean)."""
    standardize: bool = True
    """Bring each feature to mean 0 and variance 1 / width, by the training clips' statistics."""
    input_noise: float = 0.0
    """Standard deviation of the noise added to features in training, in units of theirs; on few
    clips it covers the marks that the CNNs' own training left in them."""
    keep: Literal["score", "loss"] = "score"
    """Which epoch's network is kept: that of the best validation score (of equal ones the least
    squared error), or of the least squared error (steadier on few validation clips)."""
    stream_dropout: float = 0.0
    """Chance that a training step hides a stream of a clip that has another one. Above 0 the
    learned absent vector means something even where no training clip lacks the stream."""

    def __post_init__(self) -> None:
        if self.model != "regularized" and not is_named(self.model):
            raise UserError(
                f"fusion.model must be regularized or package.module:function, got {self.model!r}"
                f"{nearest(self.model, ['regularized'])}"
            )
        for name in ("hidden", "max_epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"fusion.{name} must be at least 1, got {getattr(self, name)!r}")
        if not self.learning_rate > 0:
            raise UserError(f"fusion.learning_rate must be above 0, got {self.learning_rate!r}")
        for name in ("lambda1", "lambda2", "lambda3"):
            if not getattr(self, name) >= 0:
                raise UserError(f"fusion.{name} must be at least 0, got {getattr(self, name)!r}")
        if not self.input_noise >= 0:
            raise UserError(f"fusion.input_noise must be at least 0, got {self.input_noise!r}")
        if not 0 <= self.stream_dropout < 1:
            raise UserError(f"fusion.stream_dropout must be in [0, 1), got {self.stream_dropout!r}")
        for name, names in (
            ("activation", ("tanh", "sigmoid")),
            ("absent", ("learned", "zero")),
            ("keep", ("score", "loss")),
        ):
            if getattr(self, name) not in names:
                raise UserError(
                    f"fusion.{name} must be one of {names}, got {getattr(self, name)!r}"
                )


REFINEMENTS = {
    "none": "plain mean",
    "confusion": "contextual refinement",
    "shrunk": "contextual refinement, shrunk",
    "dasd": "DASD",
    "learned": "learned refinement",
}
"""Name of a refinement -> its title."""


@dataclass(frozen=True)
class RefinementSettings:
    """Whether and how the ensemble's scores are refined."""

    method: Literal["auto", "none", "confusion", "dasd", "learned"] = "auto"
    """none: left as they are; confusion: by the confusions on the validation split (Eq. 6, 7);
    dasd: diffused on the class graph; learned: a linear map of the systems' logits, fitted on the
    validation split; auto: what is best there by cross-validation, none if nothing is beyond
    noise."""
    normalize: bool = True
    """Divide refined scores by their sum, so that they stay probabilities. Scores of multi-label
    data never are: their classes do not exclude one another."""

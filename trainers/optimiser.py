"""The optimiser of a fit, its schedule, and how often the fit looks at itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn

from actors.errors import UserError

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class OptimiserSettings:
    """How a network is fitted; the defaults are the published ones of the spatial CNN."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimiser."""
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
    checkpoint_every: int = 1_000
    """Steps between two checkpoints."""
    mixed_precision: Literal["auto", "bf16", "fp16", "off"] = "auto"
    """Half precision on a GPU: auto takes bf16 where the GPU has it, else fp16. Never on a CPU."""
    loader_threads: int = 4
    """Threads that cut samples while the network is busy."""
    prefetch: int = 4
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
            raise UserError(f"optimiser must be sgd, adam or adamw, not {self.name!r}")
        if self.mixed_precision not in ("auto", "bf16", "fp16", "off"):
            raise UserError(
                f"mixed_precision must be auto, bf16, fp16 or off, not {self.mixed_precision!r}"
            )

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        drops = 0 if self.lr_drop_every is None else step // self.lr_drop_every
        return self.lr * self.lr_drop_factor**drops


def build_optimiser(model: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The optimiser of a model's parameters that are fitted."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(
        parameters,
        lr=settings.lr,
        betas=(settings.momentum, 0.999),
        weight_decay=settings.weight_decay,
    )


def half_precision(settings: OptimiserSettings, device: torch.device) -> torch.dtype | None:
    """The half-precision type that fitting uses on a device, or None for float32."""
    if device.type != "cuda" or settings.mixed_precision == "off":
        return None
    if settings.mixed_precision == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float16


def place(model: Model, device: torch.device) -> Model:
    """Moves a model to a device, its convolutions channels last.

    So laid out they take half the time on a CPU, and less on a GPU's tensor cores.
    """
    model.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model

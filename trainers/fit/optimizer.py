"""The optimizer of a fit, its half precision, and where the model is placed."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from trainers.settings import OptimizerSettings

Model = TypeVar("Model", bound=nn.Module)


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters that are fitted."""
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


def half_precision(settings: OptimizerSettings, device: torch.device) -> torch.dtype | None:
    """The half-precision type that fitting uses on a device, or None for float32."""
    if device.type != "cuda" or settings.mixed_precision == "off":
        return None
    if settings.mixed_precision == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float16


def place(model: Model, device: torch.device) -> Model:
    """Moves a model to a device, its convolutions in the channels-last layout.

    In this layout they take half the time on a CPU, and less time on a GPU's tensor cores.
    """
    model.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model

"""Layers of a network by their place in it."""

from __future__ import annotations

from torch import nn


def first_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the first convolution."""
    return next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))


def last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of the last linear layer or convolution: the classifier."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1]


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replaces the module of a name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)

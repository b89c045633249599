"""Weights that a network starts from: files, torchvision's cache, and fitting them on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from actors.errors import UserError


def read_state(path: str) -> dict[str, Tensor]:
    """Reads a state dict from a .safetensors, .pt or .pth file without unpickling any code.

    Args:
        path: the file; a .pt may hold the state dict itself or have it under ``state_dict``.

    Raises:
        UserError: there is no such file, or it holds no state dict of tensors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"weights {path!r}: there is no such file; give a .safetensors or .pt file")
    state: Any
    try:
        if file.suffix == ".safetensors":
            state = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"weights {path!r} can't be read: only plain tensors are, never pickled objects; "
            "save the model's state_dict"
        ) from error
    except (safetensors.SafetensorError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise UserError(f"weights {path!r} can't be read: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"weights {path!r} hold no state dict, but a {type(state).__name__}")
    # What DistributedDataParallel saved has every name behind "module.".
    return {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}


def imagenet_state(backbone: str) -> dict[str, Tensor]:
    """torchvision's best ImageNet weights of a backbone, from its cache or else its server.

    Raises:
        UserError: the backbone has none, or they can be neither found nor fetched.
    """
    if backbone not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(
            f"nobody publishes ImageNet weights of {backbone!r} for torchvision: give the path of "
            "a .safetensors or .pt file as network.weights, or none to start from scratch"
        )
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        place = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
        raise UserError(
            f"ImageNet weights of {backbone!r} can't be fetched ({error}): put the file from "
            f"{weights.url} at {place}, or give its path as network.weights, or none to start "
            "from scratch"
        ) from error


def inflate_conv1(weight: Tensor, in_channels: int) -> Tensor:
    """Adapts the first convolution's weights to another number of input channels.

    The mean over the given channels is repeated, at its own scale (cross-modality initialisation,
    Wang et al., Temporal Segment Networks, 2016). One channel gets the sum instead: a grey picture
    then gives exactly what it gave in three equal channels.

    Args:
        weight: (out, in, kh, kw).
        in_channels: input channels wanted.

    Returns:
        (out, in_channels, kh, kw).
    """
    if weight.shape[1] == in_channels:
        return weight
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.mean(1, keepdim=True).repeat(1, in_channels, 1, 1)


def fit_state(
    model: nn.Module, state: dict[str, Tensor], *, conv1: str, head: Iterable[str], source: str
) -> None:
    """Loads weights, adapting the first convolution and leaving a different classifier out.

    Args:
        model: what gets the weights.
        state: tensors by the model's names; more than it has are passed over (a network's
            auxiliary classifiers).
        conv1: name of the first convolution's weight.
        head: names of the last layer's tensors, kept as they are where the classes differ.
        source: what to call the weights in an error.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    own = model.state_dict()
    given = {name: value for name, value in state.items() if name in own}
    if conv1 in given and given[conv1].ndim == 4:
        given[conv1] = inflate_conv1(given[conv1], own[conv1].shape[1])
    for name in head:
        if name not in given or given[name].shape != own[name].shape:
            given[name] = own[name]
    missing = [name for name in own if name not in given and "num_batches_tracked" not in name]
    wrong = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if missing:
        raise UserError(
            f"weights {source!r} are not of this network: {len(missing)} of {len(own)} tensors are "
            f"missing ({_some(missing)}); it has {_some(sorted(state))}"
        )
    if wrong:
        raise UserError(f"weights {source!r} do not fit this network: {_some(wrong)}")
    model.load_state_dict(given, strict=False)


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

"""Weights that a network starts from: files, torchvision's cache, and fitting them on."""

from __future__ import annotations

from collections.abc import Iterable

import torchvision
from torch import Tensor, nn

from actors.errors import UserError
from actors.weights import published_state


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
    return published_state(
        weights,
        what=f"ImageNet weights of {backbone!r}",
        otherwise="give its path as network.weights, or none to start from scratch",
    )


def inflate_conv1(weight: Tensor, in_channels: int) -> Tensor:
    """Adapts the first convolution's weights to another number of input channels.

    The mean over the given channels is repeated, at its own scale (cross-modality initialization,
    Wang et al., Temporal Segment Networks, 2016). One channel gets the sum instead: a gray picture
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

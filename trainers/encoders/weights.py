"""Weights that an encoder starts from, fitted to its channels and classes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor, nn

from actors.errors import UserError
from trainers.encoders.encoder import Encoder
from trainers.encoders.layers import first_conv, last_layer
from trainers.encoders.specification import InputSpecification
from trainers.records import from_record


def is_own(state: dict[str, Tensor]) -> bool:
    """Whether tensors are named as an `Encoder`'s, rather than as the library's model."""
    return any(name.startswith("body.") for name in state)


def saved_specification(path: str, in_channels: int) -> InputSpecification:
    """The input specification in the header of a file that `trainers.network_files` wrote.

    Args:
        path: the file.
        in_channels: input channels of the encoder that starts from it; where they differ, mean
            and standard deviation are left out.

    Returns:
        That of an encoder of any size, normalized the stream's own way, where there is none.
    """
    none = InputSpecification(channels=in_channels, size=None)
    file = Path(path).expanduser()
    if file.suffix != ".safetensors":
        return none
    with safetensors.safe_open(file, framework="pt") as opened:
        header = opened.metadata() or {}
    record = json.loads(header.get("description", "{}")).get("specification")
    if record is None:
        return none
    found = specification_of(record)
    if found.channels == in_channels:
        return found
    return InputSpecification(
        in_channels, found.size, interpolation=found.interpolation, fit=found.fit
    )


def specification_of(record: dict[str, Any]) -> InputSpecification:
    """The specification of an encoder's description."""
    return from_record(InputSpecification, record)


def fit_model_state(model: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Loads weights into a network that starts with a convolution and ends with a classifier.

    Args:
        model: what gets the weights.
        state: tensors by the model's names.
        source: what to call the weights in an error.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    conv1 = f"{first_conv(model)[0]}.weight"
    head: list[str] = []
    if not isinstance(model, Encoder) or model.tail is not None:
        last, _ = last_layer(model)
        head = [n for n in (f"{last}.weight", f"{last}.bias") if n in model.state_dict()]
    fit_state(model, state, conv1=conv1, head=head, source=source)


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
    load_state(model, given, source=source, found=state)


def load_state(
    model: nn.Module,
    given: dict[str, Tensor],
    *,
    source: str,
    found: dict[str, Tensor] | None = None,
) -> None:
    """Loads weights that must have all of a model's tensors; others are passed over.

    Args:
        model: what gets the weights.
        given: tensors by the model's names.
        source: what to call the weights in an error.
        found: what the source holds, for an error; None: `given`.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in given and "num_batches_tracked" not in name]
    wrong = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if missing:
        raise UserError(
            f"weights {source!r} are not of this network: {len(missing)} of {len(own)} tensors are "
            f"missing ({_some(missing)}); it has {_some(sorted(found or given))}"
        )
    if wrong:
        raise UserError(f"weights {source!r} do not fit this network: {_some(wrong)}")
    model.load_state_dict(given, strict=False)


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

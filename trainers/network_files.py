"""Networks as files: one safetensors file holds the weights and how to build the network."""

from __future__ import annotations

import json
from typing import Any

import safetensors
import safetensors.torch

from actors.errors import UserError
from actors.storage import Storage
from trainers.encoders.encoder import Encoder
from trainers.encoders.factory import KIND as ENCODER
from trainers.encoders.factory import rebuild_encoder
from trainers.sequence.factory import rebuild_sequence_model
from trainers.sequence.model import SequenceModel
from trainers.tensor_files import read_metadata

Network = Encoder | SequenceModel

OLD_ENCODER, OLD_SEQUENCE = "stream", "cell"
"""What only descriptions of version 0.1.0 hold: the kind of an encoder, a key of a sequence model.
"""


def network_to_bytes(network: Network, meta: dict[str, Any] | None = None) -> bytes:
    """A network as a safetensors file; its header carries the description and `meta` as JSON.

    Args:
        network: what `build_encoder` or `build_sequence_model` built.
        meta: plain values to keep with it (classes, settings, how well it does).
    """
    state = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    header = {"description": json.dumps(network.description), "meta": json.dumps(meta or {})}
    return safetensors.torch.save(state, header)


def network_from_bytes(data: bytes, *, name: str = "network") -> tuple[Network, dict[str, Any]]:
    """The network, in evaluation mode on the CPU, and its `meta`.

    Raises:
        UserError: the bytes are no network that `network_to_bytes` made, or one of version 0.1.0,
            or the weights are of a network that is built differently by now.
    """
    try:
        header = read_metadata(data)
        state = safetensors.torch.load(data)
        description = json.loads(header["description"])
        meta = json.loads(header["meta"])
        _check_description(description)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{name!r} is no network of this project: {error}") from error
    try:
        network = build_from_description(description)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{name}: the weights do not fit the network as this version builds it: train it again "
            f"with this version, or use the version that saved it ({' '.join(str(error).split())})"
        ) from error
    return network.eval(), meta


def _check_description(description: Any) -> None:
    if not isinstance(description, dict) or "kind" not in description:
        raise ValueError("its description does not say what kind of network it is")


def build_from_description(description: dict[str, Any]) -> Network:
    """A network without its weights, from what its `description` says.

    Raises:
        UserError: version 0.1.0 wrote the description.
    """
    if description["kind"] == OLD_ENCODER or OLD_SEQUENCE in description:
        raise UserError(
            "the network was saved by version 0.1.0 of Multiclue, which this version can't read: "
            "train it again with this version"
        )
    if description["kind"] == ENCODER:
        return rebuild_encoder(description)
    return rebuild_sequence_model(description)


def save_network(
    storage: Storage, name: str, network: Network, meta: dict[str, Any] | None = None
) -> None:
    """Writes a network atomically as ``name`` (by habit ``*.safetensors``)."""
    storage.write_bytes(name, network_to_bytes(network, meta))


def load_network(storage: Storage, name: str) -> tuple[Network, dict[str, Any]]:
    """Reads a network and its `meta`; see `network_from_bytes`."""
    return network_from_bytes(storage.read_bytes(name), name=storage.path(name))

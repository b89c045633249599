"""Networks as files: one safetensors file holds the weights and how to build the network."""

from __future__ import annotations

import json
from typing import Any

import safetensors
import safetensors.torch

from actors.errors import UserError
from actors.storage import Storage
from trainers.encoders.backbones import StreamNetwork, build_network
from trainers.fit.randomness import seeded
from trainers.sequence.recurrent import SequenceNetwork
from trainers.settings import NetworkSettings

Network = StreamNetwork | SequenceNetwork


def network_to_bytes(network: Network, meta: dict[str, Any] | None = None) -> bytes:
    """A network as a safetensors file; its header carries the description and `meta` as JSON.

    Args:
        network: a network built by `build_network`, or a `SequenceNetwork`.
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
        UserError: the bytes are no network that `network_to_bytes` made.
    """
    try:
        header = _header(data)
        state = safetensors.torch.load(data)
        description = json.loads(header["description"])
        meta = json.loads(header["meta"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{name!r} is no network of this project: {error}") from error
    network = build_from_description(description)
    network.load_state_dict(state)
    return network.eval(), meta


def build_from_description(description: dict[str, Any]) -> Network:
    """An untrained network, from what a network's `description` says."""
    if description["kind"] == "stream":
        return build_network(
            NetworkSettings(**description["network"]),
            in_channels=description["in_channels"],
            n_classes=description["n_classes"],
        )
    options = {key: value for key, value in description.items() if key != "kind"}
    with seeded(0):
        return SequenceNetwork(options.pop("feature_dim"), options.pop("n_classes"), **options)


def save_network(
    storage: Storage, name: str, network: Network, meta: dict[str, Any] | None = None
) -> None:
    """Writes a network atomically as ``name`` (by habit ``*.safetensors``)."""
    storage.write_bytes(name, network_to_bytes(network, meta))


def load_network(storage: Storage, name: str) -> tuple[Network, dict[str, Any]]:
    """Reads a network and its `meta`; see `network_from_bytes`."""
    return network_from_bytes(storage.read_bytes(name), name=storage.path(name))


def _header(data: bytes) -> dict[str, str]:
    """A safetensors file starts with the length of its JSON header, 8 bytes little-endian."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("the file is too short")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})

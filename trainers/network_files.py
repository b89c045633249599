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

Network = Encoder | SequenceModel


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
    """A network without its weights, from what its `description` says."""
    current = upgrade(description)
    if current["kind"] == ENCODER:
        return rebuild_encoder(current)
    return rebuild_sequence_model(current)


def upgrade(description: dict[str, Any]) -> dict[str, Any]:
    """A description in today's form, also one that version 0.1.0 wrote."""
    if description["kind"] == "stream":
        given = dict(description["network"])
        backbone = given.pop("backbone")
        own = backbone in ("cnn_m", "cnn_m_small", "vgg_small")
        channels = description["in_channels"]
        return {
            "kind": ENCODER,
            "encoder": {**given, "name": f"{'own' if own else 'torchvision'}:{backbone}"},
            "in_channels": channels,
            "n_classes": description["n_classes"],
            "specification": {"channels": channels, "size": None},
        }
    if "cell" in description:
        settings = {k: v for k, v in description.items() if k not in _NOT_SETTINGS}
        settings["model"] = settings.pop("cell")
        return {**{k: description[k] for k in _NOT_SETTINGS}, "settings": settings}
    return description


_NOT_SETTINGS = ("kind", "feature_dim", "n_classes")
"""What a sequence model's description of version 0.1.0 holds besides settings."""


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

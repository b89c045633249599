"""Weights of published networks: from a file, or from torchvision's cache."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

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


def published_state(weights: Any, *, what: str, otherwise: str) -> dict[str, Tensor]:
    """Weights that torchvision publishes, from its cache or else from its server.

    Args:
        weights: an entry of one of torchvision's weights enums.
        what: "weights of" which network, for the error.
        otherwise: what else the user can do, for the error.

    Raises:
        UserError: they can be neither found nor fetched.
    """
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise UserError(
            f"{what} can't be fetched ({error}): put the file from {weights.url} at "
            f"{cached_file(weights)}, or {otherwise}"
        ) from error


def cached_file(weights: Any) -> Path:
    """Where torchvision keeps published weights once they are fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.url).rsplit("/", 1)[-1]

"""Weights of networks: from a file, or published by torchvision."""

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
    """Reads a state dict from a .safetensors, .pt or .pth file without unpickling objects.

    Args:
        path: path of the file. A .pt or .pth file holds the state dict, or a dict with the state
            dict as ``state_dict``.

    Returns:
        Parameter name -> tensor on the CPU, without the prefix ``module.``.

    Raises:
        UserError: the file does not exist, can't be read, or holds no state dict of tensors.
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
            f"weights {path!r} can't be read: the file holds pickled objects, which are never "
            "loaded; save the model's state_dict"
        ) from error
    except (safetensors.SafetensorError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise UserError(f"weights {path!r} can't be read: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"weights {path!r} hold a {type(state).__name__}, not a state dict of tensors; "
            "save the model's state_dict"
        )
    # DistributedDataParallel saves every name with the prefix "module.".
    return {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}


def published_state(weights: Any, *, what: str, otherwise: str) -> dict[str, Tensor]:
    """Returns weights that torchvision publishes, from its cache or its server.

    Args:
        weights: member of one of torchvision's enums of weights.
        what: name of the weights in the error's message.
        otherwise: alternative for the user in the error's message.

    Raises:
        UserError: the weights are not in the cache and can't be downloaded.
    """
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise UserError(
            f"{what} can't be fetched ({error}): put the file from {weights.url} at "
            f"{cached_file(weights)}, or {otherwise}"
        ) from error


def cached_file(weights: Any) -> Path:
    """Path of published weights in torchvision's cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.url).rsplit("/", 1)[-1]

"""Methods of optical flow by name. Command lines are parsed with it: no slow imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from actors.errors import UserError, nearest
from actors.flow.settings import SCHEDULES, TVL1

Size = Literal["small", "large"]

DEFAULT = "default"
"""Value of `RAFT.weights` for the weights that torchvision publishes."""


@dataclass(frozen=True)
class RAFT:
    """Settings of the network RAFT, as implemented by torchvision.

    Raises:
        UserError: a value is out of its range.
    """

    size: Size = "small"
    """small (1 million weights) or large (5 million, slower, better)."""
    weights: str = DEFAULT
    """Path of a .safetensors or .pth file with the network's state dict, or default: the weights
    that torchvision publishes, read from its cache or downloaded."""
    updates: int = 12
    """Number of refinements of the field."""

    def __post_init__(self) -> None:
        if self.size not in get_args(Size):
            known = ", ".join(get_args(Size))
            raise UserError(
                f"raft: size {self.size!r} does not exist ({known})"
                f"{nearest(self.size, get_args(Size))}"
            )
        if not self.weights:
            raise UserError("raft: weights is empty; give the path of a file, or 'default'")
        if self.updates < 1:
            raise UserError(f"raft: updates is {self.updates!r}; it must be at least 1")


FlowMethod = Literal["tvl1", "exact", "fast", "raft"]
METHODS: tuple[str, ...] = get_args(FlowMethod)


def choose(method: str, tvl1: TVL1, raft: RAFT) -> TVL1 | RAFT:
    """Returns the parameters of a method.

    Args:
        method: one of METHODS.
        tvl1: parameters of the method tvl1.
        raft: parameters of the method raft.

    Raises:
        UserError: the method does not exist.
    """
    if method not in METHODS:
        raise UserError(
            f"flow method {method!r} does not exist ({', '.join(METHODS)})"
            f"{nearest(method, METHODS)}"
        )
    if method == "raft":
        return raft
    return tvl1 if method == "tvl1" else SCHEDULES[method]

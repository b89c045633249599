"""Which method finds the flow, by name. Light: reading a command line imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from actors.errors import UserError, nearest
from actors.flow.settings import SCHEDULES, TVL1

Size = Literal["small", "large"]

DEFAULT = "default"
"""Weights: torchvision's."""


@dataclass(frozen=True)
class RAFT:
    """The network RAFT, as torchvision has it.

    Raises:
        UserError: a value is out of its range.
    """

    size: Size = "small"
    """small (1 million weights) or large (5 million, slower, better)."""
    weights: str = DEFAULT
    """A .safetensors or .pth file with the network's state dict, or default: torchvision's
    weights, from its cache or else fetched."""
    updates: int = 12
    """How often the field is refined."""

    def __post_init__(self) -> None:
        if self.size not in get_args(Size):
            known = ", ".join(get_args(Size))
            raise UserError(
                f"raft: size {self.size!r} does not exist ({known})"
                f"{nearest(self.size, get_args(Size))}"
            )
        if not self.weights:
            raise UserError("raft: weights are empty; give a file, or 'default'")
        if self.updates < 1:
            raise UserError(f"raft: updates is {self.updates!r}; it must be at least 1")


FlowMethod = Literal["tvl1", "exact", "fast", "raft"]
METHODS: tuple[str, ...] = get_args(FlowMethod)


def choose(method: str, tvl1: TVL1, raft: RAFT) -> TVL1 | RAFT:
    """The parameters that a method's name stands for.

    Args:
        method: one of METHODS.
        tvl1: the parameters of method tvl1.
        raft: those of method raft.

    Raises:
        UserError: there is no such method.
    """
    if method not in METHODS:
        raise UserError(
            f"flow method {method!r} does not exist ({', '.join(METHODS)})"
            f"{nearest(method, METHODS)}"
        )
    if method == "raft":
        return raft
    return tvl1 if method == "tvl1" else SCHEDULES[method]

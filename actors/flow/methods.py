"""Which method finds the flow, by name, and flow as bytes from any engine."""

from __future__ import annotations

from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from actors.errors import UserError, nearest
from actors.flow.engine import FlowEngine
from actors.flow.fields import quantise
from actors.flow.raft import RAFT
from actors.flow.settings import SCHEDULES, TVL1

FlowMethod = Literal["tvl1", "exact", "fast", "raft"]
METHODS: tuple[str, ...] = get_args(FlowMethod)


@runtime_checkable
class QuantisingEngine(Protocol):
    """An engine that gives its fields as bytes, which saves bringing pixels down from a GPU."""

    def quantised(self, frames: NDArray[np.uint8], bound: float) -> NDArray[np.uint8]:
        """`fields.quantise` of what calling the engine gives."""
        ...


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


def find_quantised(
    engine: FlowEngine, frames: NDArray[np.uint8], bound: float
) -> NDArray[np.uint8]:
    """Flow as bytes, by the engine's own way where it has one.

    Args:
        engine: finds the flow.
        frames: what the engine takes.
        bound: the largest displacement kept, in pixels.

    Returns:
        uint8 (N, 2, H, W); see `fields.quantise`.
    """
    if isinstance(engine, QuantisingEngine):
        return engine.quantised(frames, bound)
    return quantise(engine(frames), bound)

"""Flow as bytes from any engine."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from actors.flow.engine import FlowEngine
from actors.flow.fields import quantize


@runtime_checkable
class QuantizingEngine(Protocol):
    """An engine that gives its fields as bytes, which saves bringing pixels down from a GPU."""

    def quantized(self, frames: NDArray[np.uint8], bound: float) -> NDArray[np.uint8]:
        """`fields.quantize` of what calling the engine gives."""
        ...


def find_quantized(
    engine: FlowEngine, frames: NDArray[np.uint8], bound: float
) -> NDArray[np.uint8]:
    """Flow as bytes, by the engine's own way where it has one.

    Args:
        engine: finds the flow.
        frames: what the engine takes.
        bound: the largest displacement kept, in pixels.

    Returns:
        uint8 (N, 2, H, W); see `fields.quantize`.
    """
    if isinstance(engine, QuantizingEngine):
        return engine.quantized(frames, bound)
    return quantize(engine(frames), bound)

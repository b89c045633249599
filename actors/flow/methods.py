"""Quantized optical flow from any engine."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from actors.flow.engine import FlowEngine
from actors.flow.fields import quantize


@runtime_checkable
class QuantizingEngine(Protocol):
    """An engine that quantizes its fields itself, so that a GPU transfers bytes, not floats."""

    def quantized(self, frames: NDArray[np.uint8], bound: float) -> NDArray[np.uint8]:
        """Returns `fields.quantize` of the engine's flow."""
        ...


def find_quantized(
    engine: FlowEngine, frames: NDArray[np.uint8], bound: float
) -> NDArray[np.uint8]:
    """Computes quantized flow, on the engine's device if it is a `QuantizingEngine`.

    Args:
        engine: computes the flow.
        frames: as the engine takes them; see `FlowEngine`.
        bound: largest displacement in pixels; larger ones are clipped.

    Returns:
        uint8 (N, 2, H, W); see `fields.quantize`.
    """
    if isinstance(engine, QuantizingEngine):
        return engine.quantized(frames, bound)
    return quantize(engine(frames), bound)

"""Dense optical flow: engines, their settings, and operations on flow fields.

Modules are imported lazily, at the first access to one of their names, because importing Numba
takes a while and code that only reads settings does not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.flow.engine import CPUEngine, FlowEngine, compile_kernels, get_engine
    from actors.flow.fields import dequantize, flip_stack, interleave, quantize, subtract_mean
    from actors.flow.settings import SCHEDULES, SMALLEST_SIDE, TVL1
    from actors.flow.tvl1 import flow, to_gray

__all__ = [
    "SCHEDULES",
    "SMALLEST_SIDE",
    "TVL1",
    "CPUEngine",
    "FlowEngine",
    "compile_kernels",
    "dequantize",
    "flip_stack",
    "flow",
    "get_engine",
    "interleave",
    "quantize",
    "subtract_mean",
    "to_gray",
]

_HOMES = {
    "engine": ("CPUEngine", "FlowEngine", "compile_kernels", "get_engine"),
    "fields": ("dequantize", "flip_stack", "interleave", "quantize", "subtract_mean"),
    "settings": ("SCHEDULES", "SMALLEST_SIDE", "TVL1"),
    "tvl1": ("flow", "to_gray"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"actors.flow.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Dense optical flow: TV-L1 on the CPU, and what is done with its fields."""

from actors.flow.engine import CPUEngine, FlowEngine, compile_kernels, get_engine
from actors.flow.fields import dequantise, flip_stack, interleave, quantise, subtract_mean
from actors.flow.settings import SMALLEST_SIDE, TVL1
from actors.flow.tvl1 import flow, to_gray

__all__ = [
    "SMALLEST_SIDE",
    "TVL1",
    "CPUEngine",
    "FlowEngine",
    "compile_kernels",
    "dequantise",
    "flip_stack",
    "flow",
    "get_engine",
    "interleave",
    "quantise",
    "subtract_mean",
    "to_gray",
]

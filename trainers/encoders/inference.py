"""Encoders in inference: memory layout and numeric type by device and precision."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainers.encoders.encoder import Encoder

Precision = Literal["fp32", "channels_last", "bf16", "auto"]


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def uses_bf16(precision: Precision) -> bool:
    """Whether encoders compute in bfloat16 on this CPU."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16())


def prepare(encoder: Encoder, device: str | torch.device, precision: Precision = "fp32") -> Encoder:
    """The encoder to compute with, on a device and in evaluation mode.

    On a CPU with a `precision` other than fp32 its convolutions are channels last, which takes
    half the time and changes the last digits of results; in bf16 the weights of convolutions and
    linear layers are bfloat16, so that they are not converted for each batch.

    Args:
        encoder: the encoder; it is moved in place, but its weights keep their type.
        device: cpu or cuda.
        precision: what `compute` and `lay_out` are called with afterward.

    Returns:
        The encoder itself; where weights are bfloat16, a copy of it.
    """
    encoder = encoder.to(device).eval()
    if torch.device(device).type != "cpu" or precision == "fp32":
        return encoder
    if uses_bf16(precision):
        encoder = _with_bf16_weights(encoder)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


def _with_bf16_weights(encoder: Encoder) -> Encoder:
    """A copy; the tensors of its convolutions and linear layers are copied to bfloat16 at once."""
    copies: dict[int, Any] = {}
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for value in module.parameters(recurse=False):
                copies[id(value)] = nn.Parameter(value.detach().bfloat16(), requires_grad=False)
    return copy.deepcopy(encoder, copies)


def compute(
    device: str | torch.device, precision: Precision = "fp32", *, half: bool = True
) -> torch.autocast:
    """The context in which encoders compute.

    Args:
        device: cpu or cuda.
        precision: numeric type on a CPU.
        half: on a GPU, whether to compute in half precision (bf16 where it has it, else fp16).
    """
    kind = torch.device(device).type
    if kind == "cuda":
        dtype = torch.bfloat16 if not half or torch.cuda.is_bf16_supported() else torch.float16
        return torch.autocast(kind, dtype=dtype, enabled=half)
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=uses_bf16(precision))


def lay_out(inputs: Tensor, precision: Precision = "fp32") -> Tensor:
    """Inputs (N, C, h, w) in the memory layout of a prepared encoder."""
    if inputs.device.type == "cpu" and precision != "fp32" and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs

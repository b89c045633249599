"""Encoders in inference: memory layout and numeric type by device and precision."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trainers.encoders.encoder import Encoder

Precision = Literal["fp32", "bf16", "auto"]


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def uses_bf16(precision: Precision) -> bool:
    """Whether encoders compute in bfloat16 on this CPU."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16())


def prepare(encoder: Encoder, device: str | torch.device, precision: Precision = "fp32") -> Encoder:
    """Moves an encoder to a device, in evaluation mode.

    On a CPU with a `precision` other than fp32 its convolutions become channels last, which halves
    their time and changes the last digits of results.

    Args:
        encoder: the encoder, changed in place.
        device: cpu or cuda.
        precision: what `compute` is called with afterwards.
    """
    encoder.to(device).eval()
    if torch.device(device).type == "cpu" and precision != "fp32":
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


def compute(
    device: str | torch.device, precision: Precision = "fp32", *, half: bool = True
) -> torch.autocast:
    """The context in which encoders compute.

    Weights are converted once within a context, so it should span all batches of a clip.

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

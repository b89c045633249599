"""What is done with flow fields after they are found: kept in bytes, stacked, flipped, centred."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Fields = TypeVar("Fields", NDArray[Any], torch.Tensor)


def _check_bound(bound: float) -> None:
    if not bound > 0:
        raise ValueError(f"flow bound is {bound!r} pixels; it must be above 0, such as 20")


def quantise(flow: NDArray[np.float32], bound: float = 20.0) -> NDArray[np.uint8]:
    """Displacements as bytes: -bound..bound to 0..255, clipped; zero becomes 128.

    The rule of denseflow's ``convertFlowToImage`` (half to even), which two-stream networks are
    customarily trained on.

    Args:
        flow: pixels, any shape.
        bound: the largest displacement kept, in pixels.

    Raises:
        ValueError: the bound is not above 0.
    """
    _check_bound(bound)
    # In double precision: 255 * (v + b) / (2 b) is to hit its halves exactly.
    level = (np.clip(flow, -bound, bound).astype(np.float64) + bound) * 255 / (2 * bound)
    return np.rint(level).astype(np.uint8)


def dequantise(flow: Fields, bound: float = 20.0) -> Fields:
    """The displacements that bytes stand for: float32 pixels, within bound / 255 of the original.

    Args:
        flow: uint8 fields of `quantise`, any shape, NumPy or torch.
        bound: the bound they were quantised with, in pixels.

    Raises:
        ValueError: the bound is not above 0.
    """
    _check_bound(bound)
    wide = flow.to(torch.float32) if isinstance(flow, torch.Tensor) else flow.astype(np.float32)
    return wide * (2 * bound / 255) - bound


def interleave(flow: Fields) -> Fields:
    """Stacks the fields of consecutive pairs as channels x, y, x, y, ... (two-stream paper, Eq. 1).

    Args:
        flow: (..., L, 2, H, W), x first.

    Returns:
        (..., 2L, H, W), a view where possible.

    Raises:
        ValueError: the shape is not as above.
    """
    if flow.ndim < 4 or flow.shape[-3] != 2:
        raise ValueError(f"flow has shape {tuple(flow.shape)}; give (..., L, 2, H, W)")
    *batch, length, _, height, width = flow.shape
    return flow.reshape((*batch, 2 * length, height, width))


def flip_stack(stack: Fields) -> Fields:
    """Mirrors a stack left to right: columns reversed, x displacements negated.

    Args:
        stack: (..., 2L, H, W) with channels x, y, x, y, ...; uint8 of `quantise` or float pixels.

    Returns:
        A new stack of the same type. For bytes v -> 255 - v negates: it maps the bound's ends onto
        each other, and zero (128) to 127, half a level away.

    Raises:
        ValueError: the number of channels is odd.
    """
    if stack.ndim < 3 or stack.shape[-3] % 2:
        raise ValueError(f"stack has shape {tuple(stack.shape)}; give (..., 2L, H, W)")
    if isinstance(stack, torch.Tensor):
        flipped = stack.flip(-1)
        whole = not stack.is_floating_point()
    else:
        flipped = stack[..., ::-1].copy()
        whole = not np.issubdtype(stack.dtype, np.floating)
    x = flipped[..., 0::2, :, :]
    flipped[..., 0::2, :, :] = 255 - x if whole else -x
    return flipped


def subtract_mean(stack: Fields) -> Fields:
    """Takes each field's mean displacement from it, which cancels most of a camera's motion.

    Args:
        stack: float (..., H, W).

    Raises:
        TypeError: the stack holds integers, whose mean can't be taken from them without loss.
    """
    if isinstance(stack, torch.Tensor):
        if not stack.is_floating_point():
            raise TypeError(f"stack is {stack.dtype}; dequantise it to float first")
        return stack - stack.mean(dim=(-2, -1), keepdim=True)
    if not np.issubdtype(stack.dtype, np.floating):
        raise TypeError(f"stack is {stack.dtype}; dequantise it to float first")
    return stack - stack.mean(axis=(-2, -1), keepdims=True)

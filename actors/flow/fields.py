"""What is done with flow fields after they are found: kept in bytes, stacked, flipped, centered."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Fields = TypeVar("Fields", NDArray[Any], "torch.Tensor")


def _is_tensor(fields: Any) -> bool:
    """Whether these are torch's, without importing torch, which takes longer than a clip's flow."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(fields, torch.Tensor)


def check_bound(bound: float) -> None:
    """Raises ValueError for a bound in pixels that is not above 0."""
    if not bound > 0:
        raise ValueError(f"flow bound is {bound!r} pixels; it must be above 0, such as 20")


def quantize(flow: NDArray[np.float32], bound: float = 20.0) -> NDArray[np.uint8]:
    """Displacements as bytes: -bound..bound to 0..255, clipped; zero becomes 128.

    The rule of denseflow's ``convertFlowToImage`` (half to even), which two-stream networks are
    customarily trained on.

    Args:
        flow: pixels, any shape.
        bound: the largest displacement kept, in pixels.

    Raises:
        ValueError: the bound is not above 0.
    """
    check_bound(bound)
    from actors.flow.loops.fields import quantize_into  # what only reads fields needs no Numba

    levels = np.empty(flow.shape, np.uint8)
    quantize_into(levels.reshape(-1), np.ascontiguousarray(flow).reshape(-1), float(bound))
    return levels


def dequantize(flow: Fields, bound: float = 20.0) -> Fields:
    """The displacements that bytes stand for: float32 pixels, within bound / 255 of the original.

    Args:
        flow: uint8 fields of `quantize`, any shape, NumPy or torch.
        bound: the bound they were quantized with, in pixels.

    Raises:
        ValueError: the bound is not above 0.
    """
    check_bound(bound)
    given: Any = flow
    pixels = given.float() if _is_tensor(flow) else given.astype(np.float32, copy=False)
    pixels = pixels * (2 * bound / 255)
    pixels -= bound
    return pixels


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
        stack: (..., 2L, H, W) with channels x, y, x, y, ...; uint8 of `quantize` or float pixels.

    Returns:
        A new stack of the same type. For bytes v -> 255 - v negates: it maps the bound's ends onto
        each other, and zero (128) to 127, half a level away.

    Raises:
        TypeError: the stack holds integers other than bytes.
        ValueError: the number of channels is odd.
    """
    if stack.ndim < 3 or stack.shape[-3] % 2:
        raise ValueError(f"stack has shape {tuple(stack.shape)}; give (..., 2L, H, W)")
    given: Any = stack
    whole = _whole(stack)
    if whole and not str(given.dtype).endswith("uint8"):
        raise TypeError(f"stack is {stack.dtype}; give uint8 of `quantize`, or float pixels")
    # In place, on what the mirroring has just written. All bits turned over are 255 - v.
    if _is_tensor(stack):
        flipped = given.flip(-1)
        x = flipped[..., 0::2, :, :]
        x.bitwise_not_() if whole else x.neg_()
    else:
        flipped = given[..., ::-1].copy()
        x = flipped[..., 0::2, :, :]
        np.invert(x, out=x) if whole else np.negative(x, out=x)
    return flipped


def subtract_mean(stack: Fields) -> Fields:
    """Takes each field's mean displacement from it, which cancels most of a camera's motion.

    Args:
        stack: float (..., H, W).

    Raises:
        TypeError: the stack holds integers, whose mean can't be taken from them without loss.
    """
    if _whole(stack):
        raise TypeError(f"stack is {stack.dtype}; dequantize it to float first")
    mean: Any = stack.mean((-2, -1))
    return stack - mean[..., None, None]


def _whole(stack: Any) -> bool:
    """Whether it holds whole numbers: levels, not pixels."""
    if _is_tensor(stack):
        return not stack.is_floating_point()
    return not np.issubdtype(stack.dtype, np.floating)

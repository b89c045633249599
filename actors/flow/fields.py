"""Operations on flow fields: quantization to bytes, stacking, mirroring, mean subtraction."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Fields = TypeVar("Fields", NDArray[Any], "torch.Tensor")


def _is_tensor(fields: Any) -> bool:
    """Whether this is a torch tensor, without an import of torch, which is slow."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(fields, torch.Tensor)


def check_bound(bound: float) -> None:
    """Raises ValueError if the bound in pixels is not above 0."""
    if not bound > 0:
        raise ValueError(f"flow bound is {bound!r} pixels; it must be above 0, such as 20")


def quantize(flow: NDArray[np.float32], bound: float = 20.0) -> NDArray[np.uint8]:
    """Quantizes displacements to bytes: -bound..bound to 0..255, clipped; zero becomes 128.

    The rule of denseflow's ``convertFlowToImage`` (rounding half to even), which is customary for
    two-stream networks.

    Args:
        flow: float displacements in pixels, any shape.
        bound: largest displacement in pixels; larger ones are clipped.

    Returns:
        uint8, shape of `flow`.

    Raises:
        ValueError: the bound is not above 0.
    """
    check_bound(bound)
    from actors.flow.loops.fields import quantize_into  # readers of fields need no Numba

    levels = np.empty(flow.shape, np.uint8)
    quantize_into(levels.reshape(-1), np.ascontiguousarray(flow).reshape(-1), float(bound))
    return levels


def dequantize(flow: Fields, bound: float = 20.0) -> Fields:
    """Converts bytes back to displacements, within bound / 255 of the original ones.

    Args:
        flow: uint8 fields from `quantize`, any shape; NumPy or torch.
        bound: bound of the quantization, in pixels.

    Returns:
        float32 displacements in pixels, shape of `flow`.

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
    """Stacks consecutive fields as channels x, y, x, y, ... (Simonyan and Zisserman, 2014, Eq. 1).

    Args:
        flow: (..., L, 2, H, W), x first.

    Returns:
        (..., 2L, H, W), a view where possible.

    Raises:
        ValueError: the shape is another one.
    """
    if flow.ndim < 4 or flow.shape[-3] != 2:
        raise ValueError(f"flow has shape {tuple(flow.shape)}; give (..., L, 2, H, W)")
    *batch, length, _, height, width = flow.shape
    return flow.reshape((*batch, 2 * length, height, width))


def flip_stack(stack: Fields) -> Fields:
    """Mirrors a stack left to right: reverses the columns and negates x displacements.

    Args:
        stack: (..., 2L, H, W), channels x, y, x, y, ...; uint8 from `quantize`, or float pixels.

    Returns:
        A new stack of the same dtype. Bytes are negated as 255 - v, which swaps the ends of the
        range and moves zero (128) to 127, by half a level.

    Raises:
        TypeError: the stack has an integer dtype other than uint8.
        ValueError: the number of channels is odd.
    """
    if stack.ndim < 3 or stack.shape[-3] % 2:
        raise ValueError(f"stack has shape {tuple(stack.shape)}; give (..., 2L, H, W)")
    given: Any = stack
    whole = _whole(stack)
    if whole and not str(given.dtype).endswith("uint8"):
        raise TypeError(f"stack is {stack.dtype}; give uint8 from `quantize`, or float pixels")
    # In place, on the mirrored copy. Inverting all bits gives 255 - v.
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
    """Subtracts each field's mean displacement, which cancels most of the camera's motion.

    Args:
        stack: float (..., H, W).

    Returns:
        float (..., H, W).

    Raises:
        TypeError: the stack has an integer dtype.
    """
    if _whole(stack):
        raise TypeError(f"stack is {stack.dtype}; dequantize it to float first")
    mean: Any = stack.mean((-2, -1))
    return stack - mean[..., None, None]


def _whole(stack: Any) -> bool:
    """Whether the dtype is an integer one: levels, not pixels."""
    if _is_tensor(stack):
        return not stack.is_floating_point()
    return not np.issubdtype(stack.dtype, np.floating)

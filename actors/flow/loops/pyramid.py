"""Resizing between the scales of a pyramid, compiled by Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.flow.compiling import compiled
from actors.flow.loops.planes import I1, STATE, UX, UY, VX, VY, Index, Plane, U, V


@compiled(disjoint=True)
def _resize_row(
    target: Plane, row: Plane, left: NDArray[np.uint32], share: Plane, at: Index, width: Index,
    factor: Any,
) -> None:  # fmt: skip
    for x in range(width):
        place = np.uintp(left[x])
        target[at + x] = factor * (row[place] + share[x] * (row[place + I1] - row[place]))


@compiled(disjoint=True)
def _blend_rows(
    row: Plane, source: Plane, top: Index, bottom: Index, share: Any, width: Index
) -> None:
    for x in range(width):
        row[x] = source[top + x] + share * (source[bottom + x] - source[top + x])
    row[width] = row[width - I1]


@compiled()
def _neighbors(left: NDArray[np.uint32], share: Plane, columns: int, step: float) -> None:
    """Computes, per target column, the left source column and the weight of the right one."""
    for x in range(left.size):
        at = min(max((x + 0.5) * step - 0.5, 0.0), columns - 1.0)
        left[x] = np.uint32(at)
        share[x] = at - int(at)


@compiled()
def resize(
    source: Plane, source_shape: tuple[int, int, int, int], target: Plane,
    target_shape: tuple[int, int, int, int], step_y: float, step_x: float, factor: float,
) -> None:  # fmt: skip
    """Bilinear resize; pixel centers at halves, edges replicated, as OpenCV's ``INTER_LINEAR``.

    Args:
        source: flat image or plane; read.
        source_shape: height, width, stride and index of the first pixel.
        target: flat image or plane; written. The elements between width and stride are set to 0.
        target_shape: as `source_shape`.
        step_y: source rows per target row.
        step_x: source columns per target column.
        factor: factor of all values.
    """
    rows, columns, pitch, start = source_shape
    height, width, stride, target_start = target_shape
    row = np.empty(columns + 1, np.float32)
    left = np.empty(width, np.uint32)
    share = np.empty(width, np.float32)
    _neighbors(left, share, columns, step_x)
    for y in range(height):
        at_y = min(max((y + 0.5) * step_y - 0.5, 0.0), rows - 1.0)
        top = int(at_y)
        above = np.uintp(start + top * pitch)
        below = np.uintp(start + min(top + 1, rows - 1) * pitch)
        _blend_rows(row, source, above, below, np.float32(at_y - top), np.uintp(columns))
        at = target_start + y * stride
        _resize_row(target, row, left, share, np.uintp(at), np.uintp(width), np.float32(factor))
        target[at + width : at + stride] = 0


@compiled()
def enlarge(
    source: Plane, source_shape: tuple[int, int, int, int], target: Plane,
    target_shape: tuple[int, int, int, int], zoom: float, duals: bool,
) -> None:  # fmt: skip
    """Resizes a scale's solution to the next finer scale and multiplies its displacements.

    Args:
        source: (STATE, size); the solution at the coarse scale.
        source_shape: height, width, stride and index of the first pixel.
        target: (STATE, size); written.
        target_shape: as `source_shape`.
        zoom: factor of the displacements.
        duals: whether the dual variables are resized too; otherwise they are set to 0.
    """
    height, width, stride, start = target_shape
    step_y, step_x = source_shape[0] / height, source_shape[1] / width
    for plane in (U, V):
        resize(source[plane], source_shape, target[plane], target_shape, step_y, step_x, zoom)
    # The element after the last row, which the last column's difference reads.
    target[:UX, start + height * stride] = 0
    if not duals:
        target[UX:, : start + (height + 1) * stride] = 0
        return
    for plane in range(UX, STATE):
        resize(source[plane], source_shape, target[plane], target_shape, step_y, step_x, 1.0)
        target[plane, :start] = 0
    # The dual variables across the frame's right and lower edge are 0.
    last = start + (height - 1) * stride
    for plane in (UX, VX):
        target[plane, start + width - 1 : last + width : stride] = 0
    for plane in (UY, VY):
        target[plane, last : last + width] = 0


@compiled()
def build(pyramid: Plane, scales: NDArray[np.int64], step: float) -> None:
    """Fills the coarser scales of a frame's pyramid, each from the next finer one.

    Args:
        pyramid: all scales one after the other, finest first; the finest is read, the others are
            written.
        scales: (scales, 3); height, width and start index of each scale.
        step: pixels of a scale per pixel of the next coarser one.
    """
    for n in range(len(scales) - 1):
        height, width, start = scales[n]
        rows, columns, after = scales[n + 1]
        resize(
            pyramid, (height, width, width, start), pyramid, (rows, columns, columns, after),
            step, step, 1.0,
        )  # fmt: skip

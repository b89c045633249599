"""The loops of TV-L1, compiled by Numba. One thread per call; the interpreter's lock is released.

All images are float32 (height, width) with intensities of 0..255, all displacements in pixels.
Each loop works on whole rows and touches few arrays, so that LLVM vectorises it without being told
that they don't overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

CUBIC = np.float32(-0.75)
"""The bicubic kernel's free parameter; OpenCV's choice on the CPU."""
FLAT = np.float32(np.finfo(np.float32).eps)
"""A squared gradient below this carries no motion."""

compiled: Callable[..., Any] = numba.njit(
    cache=True, fastmath=True, nogil=True, error_model="numpy"
)


@compiled
def resize(image: Image, height: int, width: int, step_y: float, step_x: float) -> Image:
    """Bilinear resize; pixel centres at halves, edges replicated, as OpenCV's ``INTER_LINEAR``.

    Args:
        image: the source.
        height: rows of the result.
        width: columns of the result.
        step_y: source rows per row of the result.
        step_x: source columns per column of the result.
    """
    rows, columns = image.shape
    result = np.empty((height, width), np.float32)
    for y in range(height):
        at_y = min(max((y + 0.5) * step_y - 0.5, 0.0), rows - 1.0)
        top = int(at_y)
        bottom = min(top + 1, rows - 1)
        wy = np.float32(at_y - top)
        for x in range(width):
            at_x = min(max((x + 0.5) * step_x - 0.5, 0.0), columns - 1.0)
            left = int(at_x)
            right = min(left + 1, columns - 1)
            wx = np.float32(at_x - left)
            above = image[top, left] + wx * (image[top, right] - image[top, left])
            below = image[bottom, left] + wx * (image[bottom, right] - image[bottom, left])
            result[y, x] = above + wy * (below - above)
    return result


@compiled
def gradient(image: Image) -> tuple[Image, Image]:
    """Central differences along x and y; at the edges half the one-sided difference."""
    height, width = image.shape
    dx = np.empty_like(image)
    dy = np.empty_like(image)
    half = np.float32(0.5)
    for y in range(height):
        above, below = image[max(y - 1, 0)], image[min(y + 1, height - 1)]
        row = image[y]
        for x in range(width):
            dy[y, x] = half * (below[x] - above[x])
        for x in range(1, width - 1):
            dx[y, x] = half * (row[x + 1] - row[x - 1])
        dx[y, 0] = half * (row[1] - row[0])
        dx[y, width - 1] = half * (row[width - 1] - row[width - 2])
    return dx, dy


@compiled
def _cubic_weights(t: float, weights: Image) -> None:
    """Weights of the pixels at -1, 0, 1, 2 for a point t in 0..1 after pixel 0 (Keys, 1981)."""
    one = np.float32(1)
    a = CUBIC
    s = one - t
    weights[0] = ((a * (t + one) - 5 * a) * (t + one) + 8 * a) * (t + one) - 4 * a
    weights[1] = ((a + 2) * t - (a + 3)) * t * t + one
    weights[2] = ((a + 2) * s - (a + 3)) * s * s + one
    weights[3] = one - weights[0] - weights[1] - weights[2]


@compiled
def linearise(
    first: Image, second: Image, dx: Image, dy: Image, u: Image, v: Image, data: Image
) -> None:
    """Warps the second frame by the flow and linearises the brightness constancy around it.

    What lies outside the second frame counts as zero, gradients included, which takes such pixels
    out of the data term.

    Args:
        first: first frame.
        second: second frame.
        dx: the second frame's x gradient.
        dy: the second frame's y gradient.
        u: x displacements.
        v: y displacements.
        data: (4, height, width), written: warped x gradient, warped y gradient, the inverse of
            their squared norm (0 where flat), the residual at zero flow.
    """
    height, width = first.shape
    wx = np.empty(4, np.float32)
    wy = np.empty(4, np.float32)
    for y in range(height):
        for x in range(width):
            # A displacement beyond the frame stays beyond it, but its integer part stays small.
            at_x = min(max(x + u[y, x], np.float32(-4)), np.float32(width + 4))
            at_y = min(max(y + v[y, x], np.float32(-4)), np.float32(height + 4))
            left, top = math.floor(at_x), math.floor(at_y)
            _cubic_weights(np.float32(at_x - left), wx)
            _cubic_weights(np.float32(at_y - top), wy)
            value = gx = gy = np.float32(0)
            for j in range(max(0, 1 - top), min(4, height + 1 - top)):
                row = top - 1 + j
                for i in range(max(0, 1 - left), min(4, width + 1 - left)):
                    weight = wy[j] * wx[i]
                    column = left - 1 + i
                    value += weight * second[row, column]
                    gx += weight * dx[row, column]
                    gy += weight * dy[row, column]
            squared = gx * gx + gy * gy
            data[0, y, x] = gx
            data[1, y, x] = gy
            data[2, y, x] = np.float32(1) / squared if squared > FLAT else np.float32(0)
            data[3, y, x] = value - gx * u[y, x] - gy * v[y, x] - first[y, x]


@compiled
def _data_step(
    step: Image, u: Image, v: Image, gx: Image, gy: Image, inverse: Image, rho: Image, limit: float
) -> None:
    """One row of the thresholding operator (Zach et al., Eq. 15): step along the gradient."""
    for x in range(step.size):
        residual = rho[x] + gx[x] * u[x] + gy[x] * v[x]
        step[x] = min(max(-residual * inverse[x], -limit), limit)


@compiled
def _primal_row(
    u: Image, step: Image, g: Image, px: Image, py: Image, py_above: Image, theta: float
) -> float:
    """One row of u <- u + step g + theta div p (Eq. 14); returns its summed squared change."""
    change = step[0] * g[0] + theta * (px[0] + py[0] - py_above[0])
    u[0] += change
    error = change * change
    for x in range(1, u.size):
        change = step[x] * g[x] + theta * (px[x] - px[x - 1] + py[x] - py_above[x])
        u[x] += change
        error += change * change
    return error


@compiled
def _dual_row(px: Image, py: Image, u: Image, u_below: Image, rate: float) -> None:
    """One row of p <- (p + rate grad u) / (1 + rate |grad u|) (Eq. 14); rate is tau / theta."""
    one = np.float32(1)
    last = u.size - 1
    for x in range(last):
        ux = u[x + 1] - u[x]
        uy = u_below[x] - u[x]
        shrink = one / (one + rate * math.sqrt(ux * ux + uy * uy))
        px[x] = (px[x] + rate * ux) * shrink
        py[x] = (py[x] + rate * uy) * shrink
    uy = u_below[last] - u[last]
    py[last] = (py[last] + rate * uy) / (one + rate * abs(uy))


@compiled
def _iterate(
    flow: Image, dual: Image, data: Image, step: Image, zeros: Image, limit: float, theta: float,
    rate: float,
) -> float:  # fmt: skip
    """One iteration over the whole field in one sweep; returns the summed squared change.

    Row y of u needs rows y-1 and y of the old p; row y-1 of p needs rows y-1 and y of the new u.
    So p follows one row behind u, and each row is still in the cache when it is needed again.
    """
    u, v = flow[0], flow[1]
    last = u.shape[0] - 1
    error = 0.0
    for y in range(last + 1):
        _data_step(step, u[y], v[y], data[0, y], data[1, y], data[2, y], data[3, y], limit)
        above = dual[1, y - 1] if y > 0 else zeros
        error += _primal_row(u[y], step, data[0, y], dual[0, y], dual[1, y], above, theta)
        above = dual[3, y - 1] if y > 0 else zeros
        error += _primal_row(v[y], step, data[1, y], dual[2, y], dual[3, y], above, theta)
        if y > 0:
            _dual_row(dual[0, y - 1], dual[1, y - 1], u[y - 1], u[y], rate)
            _dual_row(dual[2, y - 1], dual[3, y - 1], v[y - 1], v[y], rate)
    _dual_row(dual[0, last], dual[1, last], u[last], u[last], rate)
    _dual_row(dual[2, last], dual[3, last], v[last], v[last], rate)
    return error


@compiled
def median(image: Image, side: int) -> Image:
    """Median of the side x side pixels around each pixel, edges replicated; side is odd."""
    height, width = image.shape
    result = np.empty_like(image)
    window = np.empty(side * side, np.float32)
    reach = side // 2
    middle = window.size // 2
    for y in range(height):
        for x in range(width):
            count = 0
            for j in range(y - reach, y + reach + 1):
                row = image[min(max(j, 0), height - 1)]
                for i in range(x - reach, x + reach + 1):
                    value = row[min(max(i, 0), width - 1)]
                    place = count
                    while place > 0 and window[place - 1] > value:
                        window[place] = window[place - 1]
                        place -= 1
                    window[place] = value
                    count += 1
            result[y, x] = window[middle]
    return result


@compiled
def solve_scale(
    first: Image, second: Image, flow: Image, warps: int, outer: int, inner: int, side: int,
    limit: float, theta: float, rate: float, tolerance: float,
) -> int:  # fmt: skip
    """Refines the flow of one pyramid scale in place; returns how many iterations it took.

    Args:
        first: first frame.
        second: second frame.
        flow: (2, height, width), x then y displacements; the start in, the solution out.
        warps: linearisations of the second frame.
        outer: rounds of iterations per warp at most.
        inner: iterations per round.
        side: side of the median filter before each round, or 0.
        limit: lambda * theta.
        theta: coupling.
        rate: tau / theta.
        tolerance: a warp ends when an iteration's summed squared change is not above this.
    """
    height, width = first.shape
    dx, dy = gradient(second)
    data = np.empty((4, height, width), np.float32)
    # The dual variables start from zero at each scale, but go on from warp to warp.
    dual = np.zeros((4, height, width), np.float32)
    step = np.empty(width, np.float32)
    zeros = np.zeros(width, np.float32)
    iterations = 0
    for _ in range(warps):
        linearise(first, second, dx, dy, flow[0], flow[1], data)
        error = np.inf
        for _ in range(outer):
            if error <= tolerance:
                break
            if side > 1:
                flow[0] = median(flow[0], side)
                flow[1] = median(flow[1], side)
            for _ in range(inner):
                error = _iterate(flow, dual, data, step, zeros, limit, theta, rate)
                iterations += 1
                if error <= tolerance:
                    break
    return iterations

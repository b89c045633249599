"""Frames, pyramids and warps of TV-L1 on a GPU, in Triton; `actors.flow.cuda.solver` launches them.

`frames` is int64 (frames, height + 2 MARGIN, pitch) with a margin of zeros; `data` is float32
(pairs, 3, height, pitch): the warped gradient and the residual at zero flow. States are described
in `actors.flow.cuda.iterations`, packed values in `actors.flow.cuda.storage`.
"""

# Triton infers the types of a kernel's arguments; only compile-time constants are annotated.
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from actors.flow.cuda.storage import (
    GRADIENT,
    INTENSITY,
    pack_dual,
    pack_pixel,
    pixel_field,
    unpack_dual,
)

MARGIN = tl.constexpr(8)
"""Width of the zeros around a frame; the bicubic kernel 4 pixels outside reaches less far."""


@triton.jit
def _tile(width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns the rows and columns of this program's tile."""
    tiles = tl.cdiv(width, COLUMNS)
    tile = tl.program_id(0)
    y = (tile // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    x = (tile % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return y, x


@triton.jit
def _around(image, y, x, inside, height, width, pitch, step_y, step_x):
    """Returns the four pixels around pixel (y, x) of another size, and its offsets down and right.

    Pixel centers are at halves, edges are replicated.
    """
    at_y = tl.minimum(tl.maximum((y + 0.5) * step_y - 0.5, 0.0), height - 1.0)
    at_x = tl.minimum(tl.maximum((x + 0.5) * step_x - 0.5, 0.0), width - 1.0)
    top, left = at_y.to(tl.int32), at_x.to(tl.int32)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    a = tl.load(image + top * pitch + left, mask=inside, other=0.0)
    b = tl.load(image + top * pitch + right, mask=inside, other=0.0)
    c = tl.load(image + bottom * pitch + left, mask=inside, other=0.0)
    d = tl.load(image + bottom * pitch + right, mask=inside, other=0.0)
    return a, b, c, d, at_y - top, at_x - left


@triton.jit
def _between(a, b, c, d, down, along):
    above = a + along * (b - a)
    below = c + along * (d - c)
    return above + down * (below - above)


@triton.jit
def _bilinear(image, y, x, inside, height, width, pitch, step_y, step_x):
    """Interpolates the image at pixels (y, x) of another size."""
    a, b, c, d, down, along = _around(image, y, x, inside, height, width, pitch, step_y, step_x)
    return _between(a, b, c, d, down, along)


@triton.jit
def _bilinear_dual(image, y, x, inside, height, width, pitch, step_y, step_x, grain):
    """Interpolates both components of a packed dual variable at pixels (y, x) of another size."""
    a, b, c, d, down, along = _around(image, y, x, inside, height, width, pitch, step_y, step_x)
    ax, ay = unpack_dual(a, grain)
    bx, by = unpack_dual(b, grain)
    cx, cy = unpack_dual(c, grain)
    dx, dy = unpack_dual(d, grain)
    return _between(ax, bx, cx, dx, down, along), _between(ay, by, cy, dy, down, along)


@triton.jit(do_not_specialize=["height", "width", "new_height", "new_width"])
def resize(
    images, smaller, height, width, new_height, new_width, step,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Resizes float32 (count, height, width) to the next coarser scale. Grid: (tiles, images)."""
    y, x = _tile(new_width, ROWS, COLUMNS)
    image = tl.program_id(1).to(tl.int64)
    images += image * height * width
    smaller += image * new_height * new_width
    inside = (y < new_height) & (x < new_width)
    value = _bilinear(images, y, x, inside, height, width, width, step, step)
    tl.store(smaller + y * new_width + x, value, mask=inside)


@triton.jit(
    do_not_specialize=[
        "room", "height", "width", "pitch", "parts",
        "new_height", "new_width", "new_pitch", "new_parts",
    ]
)  # fmt: skip
def enlarge(
    states, slots, new_slots, room, height, width, pitch, parts,
    new_height, new_width, new_pitch, new_parts, step_y, step_x, zoom, grain,
    DUALS: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Resizes each pair's flow to the next finer scale, from its latest state to the other.

    Grid: (tiles of the finer scale, pairs). DUALS: whether the dual variables are resized too, with
    0 across the image's edges, or set to 0. PARTS: a power of two not below `new_parts`.
    """
    y, x = _tile(new_width, ROWS, COLUMNS)
    pair = tl.program_id(1).to(tl.int64)
    side = tl.load(slots + pair * parts) & 1
    source = states + pair * 2 * room + side * room
    target = states + pair * 2 * room + (1 - side) * room
    inside = (y < new_height) & (x < new_width)
    plane, new_plane = height * pitch, new_height * new_pitch
    place = y * new_pitch + x
    for k in tl.static_range(2):
        image = source + k * plane
        value = zoom * _bilinear(image, y, x, inside, height, width, pitch, step_y, step_x)
        tl.store(target + k * new_plane + place, value, mask=inside)
        dual = tl.zeros((ROWS, COLUMNS), tl.float32)
        if DUALS:
            along, down = _bilinear_dual(
                source + (k + 2) * plane, y, x, inside, height, width, pitch, step_y, step_x, grain
            )
            along = tl.where(x < new_width - 1, along, 0.0)
            down = tl.where(y < new_height - 1, down, 0.0)
            dual = pack_dual(along, down, 1.0 / grain)
        tl.store(target + (k + 2) * new_plane + place, dual, mask=inside)
    if tl.program_id(0) == 0:
        part = tl.arange(0, PARTS)
        tl.store(new_slots + pair * new_parts + part, 1 - side, mask=part < new_parts)


@triton.jit(do_not_specialize=["room", "height", "width", "pitch", "parts"])
def collect(
    states, slots, flow, room, height, width, pitch, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Copies the latest u and v to float32 (pairs, 2, height, width). Grid: (tiles, pairs)."""
    y, x = _tile(width, ROWS, COLUMNS)
    pair = tl.program_id(1).to(tl.int64)
    states += pair * 2 * room + (tl.load(slots + pair * parts) & 1) * room
    flow += pair * 2 * height * width
    inside = (y < height) & (x < width)
    for k in tl.static_range(2):
        value = tl.load(states + (k * height + y) * pitch + x, mask=inside, other=0.0)
        tl.store(flow + (k * height + y) * width + x, value, mask=inside)


@triton.jit(do_not_specialize=["height", "width", "pitch"])
def pack_frames(images, frames, height, width, pitch, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Packs float32 images (count, height, width) and their central differences into `frames`.

    At the edges half the one-sided differences. Grid: (tiles, images).
    """
    y, x = _tile(width, ROWS, COLUMNS)
    image = tl.program_id(1).to(tl.int64)
    images += image * height * width
    inside = (y < height) & (x < width)
    left, right = tl.maximum(x - 1, 0), tl.minimum(x + 1, width - 1)
    above, below = tl.maximum(y - 1, 0), tl.minimum(y + 1, height - 1)
    value = tl.load(images + y * width + x, mask=inside, other=0.0)
    dx = tl.load(images + y * width + right, mask=inside, other=0.0)
    dx -= tl.load(images + y * width + left, mask=inside, other=0.0)
    dy = tl.load(images + below * width + x, mask=inside, other=0.0)
    dy -= tl.load(images + above * width + x, mask=inside, other=0.0)
    frames += image * (height + 2 * MARGIN) * pitch
    place = (y + MARGIN) * pitch + x + MARGIN
    tl.store(frames + place, pack_pixel(value, dx, dy), mask=inside)


@triton.jit
def _cubic_weights(t, a):
    """Weights of the pixels at -1, 0, 1, 2 for a point at t in 0..1 (Keys, 1981)."""
    s = 1.0 - t
    first = ((a * (t + 1.0) - 5.0 * a) * (t + 1.0) + 8.0 * a) * (t + 1.0) - 4.0 * a
    second = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    third = ((a + 2.0) * s - (a + 3.0)) * s * s + 1.0
    return first, second, third, 1.0 - first - second - third


@triton.jit(
    do_not_specialize=[
        "room", "height", "width", "frame_pitch", "pitch", "parts", "frame_step"
    ]
)  # fmt: skip
def linearize(
    frames, states, slots, data, room, height, width, frame_pitch, pitch, parts, frame_step, cubic,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Warps each pair's second frame by the flow and linearizes brightness constancy around it.

    Values and gradients outside the second frame are 0. Pair i has the frames i * frame_step and
    i * frame_step + 1. Grid: (tiles, pairs).
    """
    y, x = _tile(width, ROWS, COLUMNS)
    pair = tl.program_id(1).to(tl.int64)
    plane = height * pitch
    inside = (y < height) & (x < width)
    place = y * pitch + x
    state = states + pair * 2 * room + (tl.load(slots + pair * parts) & 1) * room
    u = tl.load(state + place, mask=inside, other=0.0)
    v = tl.load(state + plane + place, mask=inside, other=0.0)
    # A position outside the frame stays outside, but within the margin.
    at_x = tl.minimum(tl.maximum(x + u, -4.0), width + 4.0)
    at_y = tl.minimum(tl.maximum(y + v, -4.0), height + 4.0)
    left, top = tl.floor(at_x), tl.floor(at_y)
    wx = _cubic_weights(at_x - left, cubic)
    wy = _cubic_weights(at_y - top, cubic)
    size = (height + 2 * MARGIN) * frame_pitch
    first = frames + pair * frame_step * size
    start = (top.to(tl.int32) + (MARGIN - 1)) * frame_pitch + left.to(tl.int32) + (MARGIN - 1)
    taps = first + size + start
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    gx = tl.zeros((ROWS, COLUMNS), tl.float32)
    gy = tl.zeros((ROWS, COLUMNS), tl.float32)
    for j in tl.static_range(4):
        for i in tl.static_range(4):
            # No mask: after the image's last row or column this reads the margin.
            tap = tl.load(taps + j * frame_pitch + i).to(tl.uint64, bitcast=True)
            weight = wy[j] * wx[i]
            value += weight * pixel_field(tap, 0)
            gx += weight * pixel_field(tap, 21)
            gy += weight * pixel_field(tap, 42)
    here = tl.load(first + (y + MARGIN) * frame_pitch + x + MARGIN, mask=inside, other=0)
    here = pixel_field(here.to(tl.uint64, bitcast=True), 0)
    gx *= 1.0 / GRADIENT
    gy *= 1.0 / GRADIENT
    residual = (value - here) * (1.0 / INTENSITY) - gx * u - gy * v
    data += pair * 3 * plane + place
    tl.store(data, gx, mask=inside)
    tl.store(data + plane, gy, mask=inside)
    tl.store(data + 2 * plane, residual, mask=inside)

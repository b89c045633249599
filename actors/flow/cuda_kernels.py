"""The loops of TV-L1 for a GPU, in Triton; `actors.flow.cuda` launches them.

Layout. Rows of a pair's arrays lie `pitch` elements apart. `state` is float32 (pairs, 4, height,
pitch): the displacements u and v in pixels, then the dual variables of u and of v, each a pair
(x, y) of float16 in the bits of one float32, kept multiplied by theta. `data` is (pairs, 2, height,
pitch): the warped gradient, two float16 likewise, and the residual at zero flow. `frames` is int64
(frames, height + 2 MARGIN, pitch): intensity as float32 in the low half, gradient in the high half,
zeros around. Half precision is for storage only, all arithmetic is float32. The residual is made
with the rounded gradient, so rounding does not move the point of linearisation.

Iterations. A warp of 32 lanes owns a strip of columns and walks down its rows. Once row y is
loaded, iteration 1 can be done on row y, iteration 2 on row y - 1 and so on: the rows between live
in registers, neighbours in a row are reached by shuffles, and no barrier is needed. Each iteration
spoils one more column at either side of the strip, so a strip overlaps its neighbours by HALO
columns and keeps the 32 - 2 HALO in the middle.

Convergence. A launch writes to one state what it reads from the other. Each program leaves the
summed squared change of its piece's last iteration in `changes`; the next launch's programs add
up those of their pair, always in the same order, and do nothing more if the sum is small enough.
"""

from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(32)
HALO = tl.constexpr(4)
"""Iterations per launch at most, and columns and rows by which neighbouring pieces overlap."""
MARGIN = tl.constexpr(8)
"""Zeros around a frame: more than a bicubic kernel 4 pixels outside reaches."""
UNROLL = tl.constexpr(2)
"""Rows per turn of the innermost loop; several spare moving registers from row to row."""
FLAT = tl.constexpr(1.1920929e-07)
"""A squared gradient below this carries no motion, as on the CPU."""
DONE = tl.constexpr(-1.0)
"""Stands in `changes` for a pair that both states hold the solution of."""


@triton.jit
def _pack(low, high):  # type: ignore[no-untyped-def]
    """Two float32 rounded to float16, in the bits of one uint32."""
    low = low.to(tl.float16).to(tl.uint16, bitcast=True).to(tl.uint32)
    high = high.to(tl.float16).to(tl.uint16, bitcast=True).to(tl.uint32)
    return low | (high << 16)


@triton.jit
def _unpack(bits):  # type: ignore[no-untyped-def]
    """The two float32 that `_pack` took, rounded."""
    low = bits.to(tl.uint16).to(tl.float16, bitcast=True)
    high = (bits >> 16).to(tl.uint16).to(tl.float16, bitcast=True)
    return low.to(tl.float32), high.to(tl.float32)


@triton.jit
def _inverse(x):  # type: ignore[no-untyped-def]
    """1 / x of positive x: two instructions, where a division takes about eight."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit(
    do_not_specialize=["height", "width", "new_height", "new_width", "pitch", "new_pitch"]
)
def resize(
    source, target, height, width, pitch, stride, plane,
    new_height, new_width, new_pitch, new_stride, new_plane, step_y, step_x, gain,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Bilinear resize with pixel centres at halves and edges replicated, times `gain`.

    Grid: tiles, images, planes of an image. `stride` and `plane` are elements between images and
    between planes.
    """
    tiles = tl.cdiv(new_width, COLUMNS)
    tile = tl.program_id(0)
    y = (tile // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    x = (tile % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    image, side = tl.program_id(1).to(tl.int64), tl.program_id(2)
    source += image * stride + side * plane
    target += image * new_stride + side * new_plane
    inside = (y < new_height) & (x < new_width)
    at_y = tl.minimum(tl.maximum((y + 0.5) * step_y - 0.5, 0.0), height - 1.0)
    at_x = tl.minimum(tl.maximum((x + 0.5) * step_x - 0.5, 0.0), width - 1.0)
    top, left = at_y.to(tl.int32), at_x.to(tl.int32)
    wy, wx = at_y - top, at_x - left
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    a = tl.load(source + top * pitch + left, mask=inside, other=0.0)
    b = tl.load(source + top * pitch + right, mask=inside, other=0.0)
    c = tl.load(source + bottom * pitch + left, mask=inside, other=0.0)
    d = tl.load(source + bottom * pitch + right, mask=inside, other=0.0)
    above = a + wx * (b - a)
    below = c + wx * (d - c)
    tl.store(target + y * new_pitch + x, gain * (above + wy * (below - above)), mask=inside)


@triton.jit(do_not_specialize=["height", "width", "pitch"])
def pack_frames(
    images, frames, height, width, pitch, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # type: ignore[no-untyped-def]
    """Images float32 (count, height, width) to `frames`: with central differences, one-sided and
    halved at the edges. Grid: tiles, images."""
    tiles = tl.cdiv(width, COLUMNS)
    tile = tl.program_id(0)
    y = (tile // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    x = (tile % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
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
    low = value.to(tl.uint32, bitcast=True).to(tl.uint64)
    high = _pack(0.5 * dx, 0.5 * dy).to(tl.uint64)
    frames += image * (height + 2 * MARGIN) * pitch
    place = (y + MARGIN) * pitch + x + MARGIN
    tl.store(frames + place, (low | (high << 32)).to(tl.int64, bitcast=True), mask=inside)


@triton.jit
def _cubic_weights(t, a):  # type: ignore[no-untyped-def]
    """Weights of the pixels at -1, 0, 1, 2 for a point t in 0..1 after pixel 0 (Keys, 1981)."""
    s = 1.0 - t
    first = ((a * (t + 1.0) - 5.0 * a) * (t + 1.0) + 8.0 * a) * (t + 1.0) - 4.0 * a
    second = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    third = ((a + 2.0) * s - (a + 3.0)) * s * s + 1.0
    return first, second, third, 1.0 - first - second - third


@triton.jit(
    do_not_specialize=["height", "width", "frame_pitch", "pitch", "frame_step", "cubic"]
)
def linearise(
    frames, state, data, height, width, frame_pitch, pitch, frame_step, cubic,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Warps each pair's second frame by the flow and linearises brightness constancy around it.

    What lies outside the second frame counts as zero, gradients included. Pair i has the frames
    i * frame_step and the one after it. Grid: tiles, pairs.
    """
    tiles = tl.cdiv(width, COLUMNS)
    tile = tl.program_id(0)
    y = (tile // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    x = (tile % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    pair = tl.program_id(1).to(tl.int64)
    plane = height * pitch
    inside = (y < height) & (x < width)
    place = y * pitch + x
    state += pair * 4 * plane
    u = tl.load(state + place, mask=inside, other=0.0)
    v = tl.load(state + plane + place, mask=inside, other=0.0)
    # A displacement beyond the frame stays beyond it, but within the margin.
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
            # No mask: beyond the image's last row or column this still reads the margin.
            tap = tl.load(taps + j * frame_pitch + i).to(tl.uint64, bitcast=True)
            weight = wy[j] * wx[i]
            dx, dy = _unpack((tap >> 32).to(tl.uint32))
            value += weight * tap.to(tl.uint32).to(tl.float32, bitcast=True)
            gx += weight * dx
            gy += weight * dy
    here = tl.load(first + (y + MARGIN) * frame_pitch + x + MARGIN, mask=inside, other=0)
    packed = _pack(gx, gy)
    gx, gy = _unpack(packed)
    here = here.to(tl.uint64, bitcast=True).to(tl.uint32).to(tl.float32, bitcast=True)
    data += pair * 2 * plane + place
    tl.store(data, packed.to(tl.float32, bitcast=True), mask=inside)
    tl.store(data + plane, value - gx * u - gy * v - here, mask=inside)


@triton.jit
def _piece(width, pieces_wide, STRIPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which columns this program's lanes stand on, and whether they are its own to write."""
    lane = tl.arange(0, LANES)[None, :]
    strip = (tl.program_id(0) % pieces_wide) * STRIPS + tl.arange(0, STRIPS)[:, None]
    x = strip * (LANES - 2 * HALO) - HALO + lane
    return x, (lane >= HALO) & (lane < LANES - HALO) & (x < width)


@triton.jit
def _total_change(changes, step, pair, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The pair's summed squared change in the launch before; large if there was none."""
    parts = tl.num_programs(0)
    part = tl.arange(0, PARTS)
    before = changes + ((step - 1) * tl.num_programs(1) + pair) * parts
    each = tl.load(before + part, mask=(part < parts) & (step > 0), other=0.0)
    return tl.where(step > 0, tl.sum(each, 0), 3e38)


@triton.jit
def _load_row(state, data, y, x, inside, height, pitch, EDGE: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row of all a strip needs to iterate; zeros outside the image."""
    plane = height * pitch
    place = y * pitch + x
    if EDGE:
        inside &= y < height
    u = tl.load(state + place, mask=inside, other=0.0)
    v = tl.load(state + plane + place, mask=inside, other=0.0)
    pu = tl.load(state + 2 * plane + place, mask=inside, other=0.0)
    pv = tl.load(state + 3 * plane + place, mask=inside, other=0.0)
    gradient = tl.load(data + place, mask=inside, other=0.0)
    residual = tl.load(data + plane + place, mask=inside, other=0.0)
    return u, v, pu, pv, gradient, residual


@triton.jit
def _iteration(row, above, left, right, within_y, limit, tau, rate):  # type: ignore[no-untyped-def]
    """One iteration on one row (Zach et al., Eq. 13 to 15).

    Args:
        row: u, v, the four old duals and the four data terms of row r.
        above: the new u and v and the four old duals of row r - 1.
        left: lane of the left neighbour.
        right: lane of the right neighbour, a lane's own where there is none in the image.
        within_y: 1 if r - 1 and r are both in the image, else 0.

    Returns:
        The new u and v of row r, the new duals of row r - 1, the squared change.
    """
    u, v, pux, puy, pvx, pvy, gx, gy, inverse, residual = row
    old_u, old_v, qux, quy, qvx, qvy = above
    step = tl.minimum(tl.maximum((residual + gx * u + gy * v) * inverse, -limit), limit)
    change_u = pux - tl.gather(pux, left, 1) + (puy - quy) + step * gx
    change_v = pvx - tl.gather(pvx, left, 1) + (pvy - qvy) + step * gy
    u += change_u
    v += change_v
    ux = tl.gather(old_u, right, 1) - old_u
    uy = (u - old_u) * within_y
    vx = tl.gather(old_v, right, 1) - old_v
    vy = (v - old_v) * within_y
    shrink_u = _inverse(1.0 + rate * tl.sqrt(ux * ux + uy * uy))
    shrink_v = _inverse(1.0 + rate * tl.sqrt(vx * vx + vy * vy))
    qux = (qux + tau * ux) * shrink_u
    quy = (quy + tau * uy) * shrink_u
    qvx = (qvx + tau * vx) * shrink_v
    qvy = (qvy + tau * vy) * shrink_v
    return (u, v), (qux, quy, qvx, qvy), change_u * change_u + change_v * change_v


@triton.jit
def _walk(
    walk, source, target, data, y, x, own, start, stop, height, width, pitch, limit, tau, rate,
    EDGE: tl.constexpr, ITERATIONS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Takes in row y, iterates once on each of the rows y, y - 1, ..., lets the last one go.

    Args:
        walk: what is carried from row to row: row y as loaded; per iteration what it left of the
            row above, and the data terms on their way down to the next; the squared change.
        EDGE: whether rows outside the image or the piece can occur.

    Returns:
        `walk` for the next row.
    """
    loaded, aboves, terms, error = walk
    u, v, pu, pv, gradient, residual = loaded
    inside = (x >= 0) & (x < width)
    # Asked for a row early: memory answers while this row is worked on.
    ahead = _load_row(source, data, y + 1, x, inside, height, pitch, EDGE)
    lane = tl.arange(0, LANES)[None, :]
    left = tl.broadcast_to(tl.maximum(lane - 1, 0), x.shape)
    right = tl.where(inside & (x < width - 1) & (lane < LANES - 1), lane + 1, lane)
    gx, gy = _unpack(gradient.to(tl.uint32, bitcast=True))
    squared = gx * gx + gy * gy
    # A flat place gets 0 by way of the product: its reciprocal may be infinite.
    inverse = tl.where(squared > FLAT, -_inverse(tl.maximum(squared, FLAT)), 0.0)
    flow, term = (u, v), (gx, gy, inverse, residual)
    duals = _unpack(pu.to(tl.uint32, bitcast=True)) + _unpack(pv.to(tl.uint32, bitcast=True))
    new_aboves, new_terms = (), ()
    squares = error
    for k in tl.static_range(ITERATIONS):
        within_y = 1.0
        if EDGE:
            within_y = tl.where((y - k > 0) & (y - k < height), 1.0, 0.0)
        above = aboves[k]
        new, new_duals, squares = _iteration(
            flow + duals + term, above, left, right, within_y, limit, tau, rate
        )
        new_aboves = new_aboves + (new + duals,)
        new_terms = new_terms + (term,)
        flow, duals, term = (above[0], above[1]), new_duals, terms[k]
    done = y - (ITERATIONS - 1)
    write = own
    if EDGE:
        write = own & (done >= start) & (done < stop)
        squares = tl.where(write, squares, 0.0)
    plane = height * pitch
    place = done * pitch + x
    tl.store(target + place, new_aboves[ITERATIONS - 1][0], mask=write)
    tl.store(target + plane + place, new_aboves[ITERATIONS - 1][1], mask=write)
    if EDGE:
        write = own & (done > start) & (done <= stop)
    pu = _pack(duals[0], duals[1]).to(tl.float32, bitcast=True)
    pv = _pack(duals[2], duals[3]).to(tl.float32, bitcast=True)
    tl.store(target + 2 * plane + place - pitch, pu, mask=write)
    tl.store(target + 3 * plane + place - pitch, pv, mask=write)
    return ahead, new_aboves, new_terms, error + squares


@triton.jit
def _iterate_piece(
    source, target, data, x, own, start, stop, height, width, pitch, limit, tau, rate,
    STRIPS: tl.constexpr, ITERATIONS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """ITERATIONS iterations on the strips' rows start..stop; their last one's squared change."""
    zero = tl.zeros((STRIPS, LANES), tl.float32)
    aboves, terms = (), ()
    for _ in tl.static_range(ITERATIONS):
        aboves = aboves + ((zero, zero, zero, zero, zero, zero),)
        terms = terms + ((zero, zero, zero, zero),)
    first = tl.maximum(start - HALO, 0)
    ahead = _load_row(source, data, first, x, (x >= 0) & (x < width), height, pitch, True)
    walk = (ahead, aboves, terms, zero)
    # Between these rows no iteration is at an edge of the piece: most of the way, without checks.
    inner = start + ITERATIONS
    outer = tl.maximum(inner, tl.minimum(stop + ITERATIONS, height) - 1)
    for y in range(first, inner):
        walk = _walk(
            walk, source, target, data, y, x, own, start, stop, height, width, pitch,
            limit, tau, rate, True, ITERATIONS,
        )  # fmt: skip
    for y in tl.range(inner, outer, loop_unroll_factor=UNROLL):
        walk = _walk(
            walk, source, target, data, y, x, own, start, stop, height, width, pitch,
            limit, tau, rate, False, ITERATIONS,
        )  # fmt: skip
    for y in range(outer, stop + ITERATIONS):
        walk = _walk(
            walk, source, target, data, y, x, own, start, stop, height, width, pitch,
            limit, tau, rate, True, ITERATIONS,
        )  # fmt: skip
    return tl.sum(tl.sum(tl.where(own, walk[3], 0.0), 1), 0)


@triton.jit
def _copy_piece(
    source, target, x, own, start, stop, height, pitch, FIRST: tl.constexpr
):  # type: ignore[no-untyped-def]
    """Copies the piece's rows start..stop from state to state, but for planes before FIRST."""
    plane = height * pitch
    for y in range(start, stop):
        for side in tl.static_range(FIRST, 4):
            place = side * plane + y * pitch + x
            tl.store(target + place, tl.load(source + place, mask=own, other=0.0), mask=own)


@triton.jit(
    do_not_specialize=["step", "height", "width", "pitch", "pieces_wide", "rows", "copy"]
)
def iterate(
    source, target, data, changes, step, height, width, pitch, pieces_wide, rows, copy,
    tolerance, limit, tau, rate,
    CHECK: tl.constexpr, STRIPS: tl.constexpr, PARTS: tl.constexpr, ITERATIONS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """A few iterations from the state `source` to `target`, unless the pair has converged.

    Grid: pieces of the image (pieces_wide times as many as `rows` rows go into the height), pairs.

    Args:
        source: state before.
        target: state after.
        data: data terms.
        changes: float32 (steps, pairs, pieces), summed squared changes.
        step: this launch's number since the frame was warped.
        height: rows.
        width: columns.
        pitch: elements between rows.
        pieces_wide: pieces beside each other.
        rows: rows of a piece.
        copy: not 0 if a converged pair's solution is to be in `target` in the end.
        tolerance: a pair has converged when its summed squared change is not above this.
        limit: lambda * theta.
        tau: time step.
        rate: tau / theta.
        CHECK: whether pairs may converge.
        STRIPS: strips of a piece, one warp each.
        PARTS: a power of two not below the number of pieces.
        ITERATIONS: 1 to HALO.
    """
    pair = tl.program_id(1).to(tl.int64)
    x, own = _piece(width, pieces_wide, STRIPS)
    start = (tl.program_id(0) // pieces_wide) * rows
    stop = tl.minimum(start + rows, height)
    source += pair * 4 * height * pitch
    target += pair * 4 * height * pitch
    data += pair * 2 * height * pitch
    total = 3e38
    if CHECK:
        total = _total_change(changes, step, pair, PARTS)
    error = DONE
    if total > tolerance:
        error = _iterate_piece(
            source, target, data, x, own, start, stop, height, width, pitch, limit, tau, rate,
            STRIPS, ITERATIONS,
        )  # fmt: skip
    elif (total >= 0) & (copy != 0):
        _copy_piece(source, target, x, own, start, stop, height, pitch, 0)
    if CHECK:
        here = (step * tl.num_programs(1) + pair) * tl.num_programs(0) + tl.program_id(0)
        tl.store(changes + here, error)


@triton.jit
def _without_extremes(values, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The values but for their smallest and their largest."""
    least = values[0]
    rest = ()
    for i in tl.static_range(1, SIZE):
        rest = rest + (tl.maximum(least, values[i]),)
        least = tl.minimum(least, values[i])
    most = rest[0]
    kept = ()
    for i in tl.static_range(1, SIZE - 1):
        kept = kept + (tl.minimum(most, rest[i]),)
        most = tl.maximum(most, rest[i])
    return kept


@triton.jit
def _median(image, y, x, own, height, width, pitch, SIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Median of the SIDE x SIDE pixels around each; edges replicated.

    Of n values, the smallest and the largest of any n // 2 + 2 can't be the median: drop them,
    take in another, and so on.
    """
    values = ()
    for k in tl.static_range(SIDE * SIDE):
        row = tl.minimum(tl.maximum(y + (k // SIDE - SIDE // 2), 0), height - 1)
        column = tl.minimum(tl.maximum(x + (k % SIDE - SIDE // 2), 0), width - 1)
        values = values + (tl.load(image + row * pitch + column, mask=own, other=0.0),)
    kept = ()
    for k in tl.static_range(SIDE * SIDE // 2 + 2):
        kept = kept + (values[k],)
    for k in tl.static_range(SIDE * SIDE // 2 + 2, SIDE * SIDE):
        kept = _without_extremes(kept, 2 * (SIDE * SIDE // 2 + 2) - k)
        kept = kept + (values[k],)
    return _without_extremes(kept, 3)[0]


@triton.jit(
    do_not_specialize=["step", "height", "width", "pitch", "pieces_wide", "rows", "copy"]
)
def filter_flow(
    source, target, changes, step, height, width, pitch, pieces_wide, rows, copy, tolerance,
    CHECK: tl.constexpr, STRIPS: tl.constexpr, PARTS: tl.constexpr, SIDE: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Median-filters u and v from the state `source` to `target`, and copies the duals.

    Grid and arguments as `iterate`; SIDE is the filter's side. A pair that has converged is left
    alone, one that has not is handed on as such.
    """
    pair = tl.program_id(1).to(tl.int64)
    x, own = _piece(width, pieces_wide, STRIPS)
    start = (tl.program_id(0) // pieces_wide) * rows
    stop = tl.minimum(start + rows, height)
    plane = height * pitch
    source += pair * 4 * plane
    target += pair * 4 * plane
    total = 3e38
    if CHECK:
        total = _total_change(changes, step, pair, PARTS)
    handed = DONE
    if total > tolerance:
        handed = 3e38 / PARTS
        _copy_piece(source, target, x, own, start, stop, height, pitch, 2)
        for y in range(start, stop):
            for side in tl.static_range(2):
                middle = _median(source + side * plane, y, x, own, height, width, pitch, SIDE)
                tl.store(target + side * plane + y * pitch + x, middle, mask=own)
    elif (total >= 0) & (copy != 0):
        _copy_piece(source, target, x, own, start, stop, height, pitch, 0)
    if CHECK:
        here = (step * tl.num_programs(1) + pair) * tl.num_programs(0) + tl.program_id(0)
        tl.store(changes + here, handed)

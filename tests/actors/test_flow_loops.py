"""The compiled loops against the same written plainly, OpenCV and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from flow_cases import from_planes, in_planes, keys, plain_iteration, plain_primal_dual
from scipy import ndimage

from actors.flow.loops import iterations, planes, pyramid, scale, warp
from actors.flow.networks import median_network


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize(("height", "width"), [(17, 16), (21, 35), (5, 31)])
def test_iterations_in_one_sweep_agree_with_plain_ones(count, height, width):
    rng = np.random.default_rng(0)
    limit, theta, tau, stride = 0.045, 0.3, 0.25, (width // 16 + 1) * 16
    u, p = rng.normal(size=(2, height, width)), rng.normal(size=(2, 2, height, width)) / 3
    # Nothing flows through the right and lower edge, at which the iteration keeps it.
    p[:, 0, :, -1] = p[:, 1, -1] = 0
    g, rho = rng.normal(size=(2, height, width)) * 20, rng.normal(size=(height, width)) * 30
    inverse = 1 / (g**2).sum(axis=0)
    variables = in_planes(np.concatenate([u, theta * p.reshape(4, height, width), g]), stride)
    data = in_planes(np.stack([inverse, rho]), stride)
    taus = np.zeros(stride, np.float32)
    taus[:width] = tau
    change = np.empty(iterations.sums(height), np.float32)
    numbers = np.float32(limit), np.float32(tau / theta)
    iterations.iterate(*variables, *data, taus, height, width, stride, *numbers, change, count)
    plain = []
    for _ in range(count):
        u, p, error = plain_iteration(u, p, g, inverse, rho, limit, theta, tau)
        plain.append(error)
    found = from_planes(variables, height, width)
    errors = [iterations.total(change, height, k) for k in range(count)]
    assert np.allclose(errors, plain, rtol=1e-4)
    assert np.allclose(found[:2], u, atol=1e-4)
    assert np.allclose(found[2:6], theta * p.reshape(4, height, width), atol=1e-4)
    # What stands for outside has stayed zero, but for the column that repeats u's last.
    variables = variables.reshape(8, height + 2, stride)
    assert not variables[:, [0, -1]].any() and not variables[2:, :, width:].any()
    assert not variables[:2, :, width + 1 :].any()


def test_the_change_of_a_large_frame_is_summed_exactly():
    height, width = 1080, 1920
    rng = np.random.default_rng(0)
    stride = (width // 16 + 1) * 16
    duals = rng.normal(size=(4, height, width)).astype(np.float32)
    duals[::2, :, -1] = duals[1::2, -1] = 0
    still = np.zeros((8, height, width), np.float32)  # no gradient: u moves by div p alone
    still[2:6] = duals
    change = np.empty(iterations.sums(height), np.float32)
    numbers = np.float32(0.045), np.float32(0.25 / 0.3)
    iterations.iterate(
        *in_planes(still, stride), *in_planes(still[:2], stride), np.zeros(stride, np.float32),
        height, width, stride, *numbers, change, 1,
    )  # fmt: skip
    ux, uy, vx, vy = (np.pad(dual.astype(float), ((1, 0), (1, 0))) for dual in duals)
    du, dv = (
        (x - np.roll(x, 1, 1) + y - np.roll(y, 1, 0))[1:, 1:] for x, y in ((ux, uy), (vx, vy))
    )
    exactly = (du**2 + dv**2).sum()
    assert iterations.total(change, height, 0) == pytest.approx(exactly, rel=2e-6)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize(("height", "width"), [(17, 16), (21, 35), (5, 31)])
def test_primal_dual_iterations_in_one_sweep_agree_with_plain_ones(count, height, width):
    rng = np.random.default_rng(0)
    strength, theta, tau, sigma = 0.15, 0.3, 0.2, 0.8
    stride = (width // 16 + 1) * 16
    u, p = rng.normal(size=(2, height, width)), rng.normal(size=(2, 2, height, width)) / 3
    p[:, 0, :, -1] = p[:, 1, -1] = 0
    g, rho = rng.normal(size=(2, height, width)) * 20, rng.normal(size=(height, width)) * 30
    inverse = 1 / (g**2).sum(axis=0)
    state = in_planes(np.concatenate([u, p.reshape(4, height, width)]), stride)
    terms = in_planes(np.concatenate([g, inverse[None], rho[None]]), stride)
    sigmas = np.zeros(stride, np.float32)
    sigmas[:width] = sigma
    bars = np.zeros((2, 2 * planes.LONGEST_BLOCK * stride + planes.LANES), np.float32)
    change = np.empty(iterations.sums(height), np.float32)
    numbers = (np.float32(n) for n in (tau, strength * tau, tau / (tau + theta)))
    iterations.iterate_primal_dual(
        *state, *terms, *bars, sigmas, height, width, stride, *numbers, change, count
    )
    plain = []
    for _ in range(count):
        u, p, error = plain_primal_dual(u, p, g, inverse, rho, strength, tau, sigma, theta)
        plain.append(error)
    found = from_planes(state, height, width)
    errors = [iterations.total(change, height, k) for k in range(count)]
    assert np.allclose(errors, plain, rtol=1e-4)
    assert np.allclose(found[:2], u, atol=1e-4)
    assert np.allclose(found[2:], p.reshape(4, height, width), atol=1e-4)
    state = state.reshape(6, height + 2, stride)
    assert not state[:, [0, -1]].any() and not state[2:, :, width:].any()


@pytest.mark.parametrize("duals", [False, True])
def test_a_solution_is_enlarged_as_images_are_and_its_duals_end_at_the_edges(duals):
    rng = np.random.default_rng(4)
    (rows, columns), (height, width), (pitch, stride) = (18, 23), (24, 31), (32, 32)
    source = in_planes(rng.normal(size=(6, rows, columns)), pitch)
    target = np.full((6, (height + 2) * stride), np.nan, np.float32)
    shapes = (rows, columns, pitch, pitch), (height, width, stride, stride)
    pyramid.enlarge(source, shapes[0], target, shapes[1], 1.5, duals)
    plain, steps = np.zeros_like(target), (rows / height, columns / width)
    for n in range(6):
        pyramid.resize(source[n], shapes[0], plain[n], shapes[1], *steps, 1.5 if n < 2 else 1.0)
    expected = from_planes(plain, height, width).copy()
    expected[[2, 4], :, -1] = expected[[3, 5], -1] = 0
    expected[2:] *= duals
    assert np.allclose(from_planes(target, height, width), expected, atol=1e-6)
    framed = target.reshape(6, height + 2, stride)
    assert not framed[2:, 0].any() and not framed[:, 1:-1, width:].any()
    assert not framed[:2, -1, 0].any()


def test_blocks_end_no_later_than_the_change_falls_to_the_tolerance():
    # Errors of a real warp, divided by the tolerance; the stop rule ends it at the last.
    errors = [20.38, 7.15, 3.59, 2.43, 2.16, 2.09, 2.08, 2.06, 1.97, 1.84, 1.71, 1.57, 1.44, 1.37]
    errors += [1.31, 1.26, 1.19, 1.12, 1.09, 1.09, 1.06, 1.02, 0.97]
    done, before, blocks = 0, 0.0, []
    while done < len(errors):
        blocks.append(iterations.next_block(errors[max(done - 1, 0)], before, 1.0, 30 - done))
        done += blocks[-1]
        before = errors[done - 2] if done > 1 else 0.0
    assert done == len(errors)
    assert max(blocks) > 3
    assert iterations.next_block(5.0, 9.0, 0.0, 30) == planes.LONGEST_BLOCK
    assert iterations.next_block(5.0, 9.0, 0.0, 3) == 3


def plain_warp(image, u, v, a):
    """Keys, 1981: the sum over all pixels, those outside counting as zero."""
    height, width = image.shape
    found = np.empty((height, width))
    for y, x in np.ndindex(height, width):
        down = keys(y + v[y, x] - np.arange(height), a)
        along = keys(x + u[y, x] - np.arange(width), a)
        found[y, x] = down @ image @ along
    return found


@pytest.mark.parametrize("cubic", [-0.75, -0.5])
def test_linearization_agrees_with_a_plain_one(cubic):
    height, width, stride = 17, 21, 32
    rng = np.random.default_rng(1)
    first, second = rng.uniform(0, 255, (2, height, width)).astype(np.float32)
    # Some displacements reach beyond the frame, some far.
    field = rng.normal(size=(2, height, width)) * rng.choice([1, 5, 1000], (height, width))
    terms = in_planes(np.zeros((planes.TERMS, height, width)), stride)
    packed = np.full(4 * (height + 8) * (width + 8), np.nan, np.float32)
    warp.pack(second.ravel(), packed, height, width)
    state = in_planes(field, stride)
    warp.linearize(first.ravel(), packed, state, terms, height, width, stride, cubic)
    edges = np.pad(second.astype(float), 1, mode="edge")
    dx = (edges[1:-1, 2:] - edges[1:-1, :-2]) / 2
    dy = (edges[2:, 1:-1] - edges[:-2, 1:-1]) / 2
    value, gx, gy = (plain_warp(image, *field, cubic) for image in (second, dx, dy))
    squared = gx**2 + gy**2
    found = from_planes(terms, height, width)
    assert np.allclose(found[planes.GX], gx, atol=0.05)
    assert np.allclose(found[planes.GY], gy, atol=0.05)
    known = squared > 1
    assert np.allclose(found[planes.INVERSE][known] * squared[known], 1, atol=0.05)
    inside = np.abs(field).max(axis=0) < 20
    rho = value - gx * field[0] - gy * field[1] - first
    assert np.allclose(found[planes.RHO][inside], rho[inside], atol=0.1)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(16, 19), (3, 17), (24, 33)])
def test_median_agrees_with_scipy(side, height, width):
    stride = 48
    image = np.random.default_rng(2).normal(size=(1, height, width)).astype(np.float32)
    planes = in_planes(np.concatenate([image, image]), stride)
    scale.median(*planes, height, width, stride, side, median_network(side))
    expected = ndimage.median_filter(image[0], side, mode="nearest")
    assert np.array_equal(from_planes(planes, height, width)[0], expected)


@pytest.mark.parametrize("step", [0.8, 0.75, 0.5])
def test_resizing_agrees_with_opencv(step):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(3).uniform(0, 255, (37, 53)).astype(np.float32)
    height, width = round(37 * step), round(53 * step)
    found = np.empty(height * width, np.float32)
    shapes = (37, 53, 53, 0), (height, width, width, 0)
    pyramid.resize(image.ravel(), shapes[0], found, shapes[1], 1 / step, 1 / step, 1.0)
    expected = cv2.resize(image, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
    assert np.allclose(found.reshape(height, width), expected, atol=0.02)

"""The GPU's TV-L1 against the CPU's: on a GPU if there is one, always under Triton's interpreter.

Triton decides at its import whether to interpret, so a process of its own runs this file again with
TRITON_INTERPRET set. Everything is small there: the interpreter takes a millisecond per operation.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from flow_cases import (
    from_planes,
    in_planes,
    keys,
    plain_iteration,
    share_within_one,
    shifted_pair,
)

from actors.errors import UserError
from actors.flow import TVL1, flow, quantize, to_gray
from actors.flow.cuda.engine import CUDAEngine
from actors.flow.loops import planes, warp
from actors.flow.settings import SCHEDULES
from actors.flow.tvl1 import PyramidSolver

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_kernels = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="no GPU, and not interpreted"
)
needs_gpu = pytest.mark.skipif(
    INTERPRETED or not torch.cuda.is_available(), reason="no GPU, or interpreted"
)
Engine = partial(CUDAEngine, device="cpu" if INTERPRETED else "cuda")

# Seven iterations are a launch of four and one of three.
QUICK = TVL1(scales=1, warps=1, epsilon=0.0, inner_iterations=7, outer_iterations=1)
# For 16 bits in the dual variables and fields of up to a few pixels.
TOLERANCE = 0.001


def clip(frames=3, height=20, width=34):
    """Frames that move a pixel or so each."""
    return np.concatenate(
        [shifted_pair(height, width, (0.8 * t, -0.5 * t))[1:] for t in range(frames)]
    )


def assert_agrees(ours, theirs, tolerance=TOLERANCE):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert np.abs(ours - theirs).max() <= tolerance
    within = np.abs(quantize(ours).astype(int) - quantize(theirs)) <= 1
    assert within.all()


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is it")
def test_under_the_interpreter(request):
    """One half of the tests beside the other, for each takes one core only."""
    pytest.importorskip("triton")
    this = request.node.name
    names = [name for name in globals() if name.startswith("test_") and name != this]
    halves = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
            + [f"{__file__}::{name}" for name in half],
            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for half in (names[::2], names[1::2])
    ]
    said = [half.communicate()[0] for half in halves]
    for half, words in zip(halves, said, strict=True):
        assert half.returncode == 0 and "...." in words, words


@needs_kernels
def test_agrees_with_the_cpu_over_scales_and_warps():
    frames = clip(2, 22, 36)
    settings = replace(QUICK, scales=2, warps=2)
    assert_agrees(Engine(settings)(frames), flow(frames, settings))


PRIMAL_DUAL = replace(QUICK, solver="primal_dual", tau=0.19, sigma=0.865)


@needs_kernels
@pytest.mark.parametrize("height", [17, 66])  # in one piece, in two
def test_primal_dual_iterations_agree_with_the_cpu(height):
    frames = clip(2, height, 29)
    ours = Engine(PRIMAL_DUAL)(frames)
    assert_agrees(ours, flow(frames, PRIMAL_DUAL))
    assert np.abs(ours - flow(frames, QUICK)).max() > 0.1


@needs_kernels
def test_primal_dual_agrees_with_the_cpu_over_scales_and_warps():
    frames = clip(2, 24, 38)
    settings = replace(PRIMAL_DUAL, scales=2, warps=2)
    assert_agrees(Engine(settings)(frames), flow(frames, settings))
    # The duals' going on to the finer scale makes a difference that would be seen.
    later = replace(settings, scales=1)
    assert np.abs(flow(frames, settings) - flow(frames, later)).max() > 100 * TOLERANCE


@needs_kernels
def test_primal_dual_stops_where_the_cpu_stops():
    moving = shifted_pair(16, 34, (0.6, 0.3))
    settings = replace(PRIMAL_DUAL, epsilon=0.053, inner_iterations=11)
    taken = iterations_taken(moving, settings)
    assert 3 < taken < 11 and taken % 4  # in the middle of a launch
    assert_agrees(Engine(settings)(moving), flow(moving, settings))


class Stored(PyramidSolver):
    """The CPU's course, iterated plainly in double precision and stopped after the very iteration
    that the rule names, but stored as on the GPU: frames in 21 bits, dual variables in 16 between
    launches.

    The CPU's own loops stop there too, in scales as small as these.
    """

    def _refine(self, scale):
        settings, (height, width, stride) = self._settings, self._scales[scale]
        first, packed = self._pyramids[0].images[scale], self._packed
        warp.pack(self._pyramids[1].images[scale], packed, height, width)
        first = rounded(first, 1 / 4096).astype(np.float32)
        margin = 2 * planes.MARGIN
        pixels = packed[: 4 * (height + margin) * (width + margin)].reshape(-1, 4)
        pixels[:] = rounded(pixels, [1 / 4096, 1 / 8192, 1 / 8192, 1])
        duals = np.zeros((2, 2, height, width))
        for _ in range(settings.warps):
            warp.linearize(
                first, packed, self._state, self._terms, height, width, stride, settings.cubic
            )
            size = (height + 2) * stride
            flow, terms = (
                from_planes(part[:, :size], height, width).astype(float)
                for part in (self._state[:2], self._terms[: planes.SCRATCH])
            )
            u, duals = self._warp(flow, terms, duals)
            self._state[:2, :size] = in_planes(u, stride)

    def _warp(self, u, terms, duals):
        settings, grain = self._settings, self._settings.theta / 32767
        g = terms[[planes.GX, planes.GY]]
        for n in range(1, settings.inner_iterations + 1):
            u, duals, change = plain_iteration(
                u, duals, g, terms[planes.INVERSE], terms[planes.RHO],
                settings.lambda_ * settings.theta, settings.theta, settings.tau,
            )  # fmt: skip
            converged = change <= settings.epsilon**2 * u[0].size and settings.epsilon > 0
            if n % 4 == 0 or n == settings.inner_iterations or converged:
                duals = rounded(duals * settings.theta, grain) / settings.theta
            if converged:
                break
        self.taken.append(n)
        return u, duals


def rounded(values, unit):
    return np.rint(values / np.asarray(unit)) * unit


@needs_kernels
@pytest.mark.parametrize(("epsilon", "taken"), [(0.0, [7] * 4), (0.1, [8, 5, 3, 3])])
def test_differs_from_the_cpu_by_what_it_stores_alone(epsilon, taken):
    frames = clip(2, 22, 36)
    settings = replace(QUICK, scales=2, warps=2, epsilon=epsilon)
    settings = replace(settings, inner_iterations=11 if epsilon else 7)
    ours = Engine(settings)(frames)[0]
    solver, stored = Stored(22, 36, settings), np.empty_like(ours)
    solver.taken = []
    for frame in frames:
        solver.show(frame)
    solver.solve(stored)
    assert solver.taken == taken
    assert np.abs(ours - stored).max() <= 1e-4
    assert np.array_equal(quantize(ours), quantize(stored))


@needs_kernels
@pytest.mark.parametrize("count", [1, 4, 6])
def test_takes_as_many_iterations_as_set(count):
    frames = clip(2, 16, 24)
    ours = Engine(replace(QUICK, inner_iterations=count))(frames)
    error = [
        np.abs(ours - flow(frames, replace(QUICK, inner_iterations=count + more))).max()
        for more in (0, 1)
    ]
    assert error[0] < 0.1 * error[1]


def iterations_taken(frames, settings):
    """How many iterations the CPU takes until it converges, or as many as it may."""
    field = flow(frames, settings)
    most = settings.inner_iterations * settings.outer_iterations
    fixed = replace(settings, epsilon=0.0, outer_iterations=1)
    errors = [
        np.abs(flow(frames, replace(fixed, inner_iterations=n)) - field).max()
        for n in range(1, most + 1)
    ]
    return 1 + int(np.argmin(errors))


@needs_kernels
@pytest.mark.parametrize(("epsilon", "taken"), [(0.1, 3), (0.08, 5), (0.01, 9)])
def test_stops_at_the_iteration_where_the_cpu_stops(epsilon, taken):
    moving = shifted_pair(16, 34, (0.6, 0.3))
    settings = replace(QUICK, epsilon=epsilon, inner_iterations=9)
    assert iterations_taken(moving, settings) == taken
    ours = Engine(settings)(moving)
    assert_agrees(ours, flow(moving, settings))
    other = replace(settings, epsilon=0.0, inner_iterations=taken + 1)
    assert np.abs(ours - flow(moving, other)).max() > 0.02


@needs_kernels
def test_each_pair_converges_on_its_own():
    settings = replace(QUICK, warps=2, epsilon=0.08, inner_iterations=6)
    moving = shifted_pair(16, 34, (0.6, 0.3))
    frames = np.concatenate([moving, moving[1:]])
    together = Engine(settings)(frames)
    assert_agrees(together, flow(frames, settings))
    assert np.array_equal(together[1], np.zeros_like(together[1]))
    assert np.array_equal(together[0], Engine(settings)(moving)[0])


@needs_kernels
@pytest.mark.parametrize("side", [3, 5])
def test_median_filter(side):
    frames = clip(2, 17, 29)
    # Converges in the second round with epsilon, and the third does nothing.
    settings = replace(QUICK, median_filtering=side, inner_iterations=3, outer_iterations=3)
    settings = replace(settings, epsilon=0.15 if side == 5 else 0.0)
    assert_agrees(Engine(settings)(frames), flow(frames, settings))


@needs_kernels
@pytest.mark.parametrize("cubic", [-0.75, -0.5])
def test_warps_by_the_cubic_kernel_and_zero_outside(cubic):
    height, width = 17, 22
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, height, width)).astype(np.float32)
    displacement = rng.normal(0, 6, (2, height, width)).astype(np.float32)
    displacement[:, 0, 0] = 1e6
    y, x = np.mgrid[:height, :width]
    by_row = keys(y + displacement[1] - np.arange(height)[:, None, None], cubic)
    by_column = keys(x + displacement[0] - np.arange(width)[:, None, None], cubic)
    padded = np.pad(frames[1], 1, mode="edge")
    gradients = (
        (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2,
        (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2,
    )
    value, dx, dy = (
        np.einsum("jyx,iyx,ji->yx", by_row, by_column, image) for image in (frames[1], *gradients)
    )

    engine = Engine(replace(QUICK, cubic=cubic))
    solver = engine._solver_class(engine.settings, engine.device, height, width, 1, 1)
    solver.images[0].copy_(torch.from_numpy(frames))
    solver._build_pyramids(2)
    pitch = solver.scales[0].pitch
    rows = solver.states[: 2 * height * pitch].view(2, height, pitch)
    rows[:, :, :width] = torch.from_numpy(displacement).to(engine.device)
    solver._linearize(0, 1)
    data = solver.data[: 3 * height * pitch].cpu().view(3, height, pitch)[:, :, :width].numpy()
    assert np.allclose(data[0], dx, atol=1e-3)
    assert np.allclose(data[1], dy, atol=1e-3)
    residual = value - dx * displacement[0] - dy * displacement[1] - frames[0]
    assert np.allclose(data[2], residual, atol=0.02)


@needs_kernels
def test_a_tall_field_is_cut_into_pieces():
    frames = clip(2, 66, 20)
    settings = replace(QUICK, inner_iterations=4)
    assert_agrees(Engine(settings)(frames), flow(frames, settings))


@needs_kernels
def test_batches_make_no_difference():
    frames = clip(4, 16, 20)
    settings = replace(QUICK, inner_iterations=2)
    whole = Engine(settings)(frames)
    assert np.array_equal(Engine(settings, batch=2)(frames), whole)
    assert_agrees(whole, flow(frames, settings))


@needs_kernels
@pytest.mark.parametrize("room", [3, 1])
def test_halves_a_batch_that_does_not_fit(monkeypatch, room):
    """The device has memory for `room` pairs, and the engine takes it to have more."""
    frames = clip(6, 16, 20)
    settings = replace(QUICK, inner_iterations=1)
    expected = Engine(settings)(frames)
    engine = Engine(settings, batch=5)
    tried = []

    class Small(engine._solver_class):
        def __init__(self, *args):
            tried.append(args[4])
            if tried[-1] > room:
                raise torch.cuda.OutOfMemoryError
            super().__init__(*args)

    monkeypatch.setattr(engine, "_solver_class", Small)
    assert np.array_equal(engine(frames), expected)
    assert tried == [5, 2] if room == 3 else [5, 2, 1]
    tried.clear()
    assert np.array_equal(engine.quantized(frames), quantize(expected))
    assert tried == []  # what was found to fit has been kept


@needs_kernels
def test_recorded_launches_do_what_they_do_one_by_one():
    settings = replace(QUICK, inner_iterations=2, epsilon=0.01)
    clips = [clip(n, 16, 20)[::way] for n, way in ((5, 1), (4, 1), (5, -1), (4, -1))]
    replayed = []

    def record(work):
        def replay():
            replayed.append(work)
            work()

        return replay

    engine = Engine(settings)
    engine._record = record
    fields = [engine(frames) for frames in clips]
    assert len(replayed) == 3 and len({id(work) for work in replayed}) == 1
    for found, frames in zip(fields, clips, strict=True):
        assert np.array_equal(found, Engine(settings)(frames))
    # Of another size, so that nothing is known of it.
    pairs = clips[0][:4, :, :18].reshape(2, 2, 16, 18)
    assert np.array_equal(engine(pairs), Engine(settings)(pairs))
    assert len(replayed) == 3


@needs_kernels
def test_launches_that_cannot_be_recorded_are_made_one_by_one(caplog):
    settings = replace(QUICK, inner_iterations=1)
    frames = clip(2, 16, 20)

    def record(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = Engine(settings)
    engine._record = record
    fields = [engine(frames) for _ in range(3)]
    assert np.array_equal(fields[0], fields[1]) and np.array_equal(fields[0], fields[2])
    (warning,) = caplog.records
    assert "can't be recorded" in warning.message and "not permitted" in warning.message


@needs_kernels
def test_no_memory_for_a_single_pair(monkeypatch):
    engine = Engine(QUICK)

    def full(*args):
        raise torch.cuda.OutOfMemoryError

    full.bytes_per_pair = engine._solver_class.bytes_per_pair
    monkeypatch.setattr(engine, "_solver_class", full)
    monkeypatch.setattr("actors.flow.devices.free_memory", lambda device, share: 5 * 2**20)
    needed = engine._bytes_per_pair(240, 320, 1) / 2**20
    words = rf"pair of 320x240 pixels, which takes about {needed:.0f} MiB; 5 MiB are free. Use"
    with pytest.raises(UserError, match=words):
        engine(np.zeros((4, 240, 320), np.uint8))


@needs_kernels
def test_pairs_color_and_any_strides():
    settings = replace(QUICK, inner_iterations=2)
    frames = clip(4, 16, 20)
    pairs = Engine(settings, batch=1)(frames.reshape(2, 2, 16, 20))
    assert_agrees(pairs, flow(frames, settings)[::2])
    color = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3), np.uint8)
    color = color.transpose(0, 3, 1, 2)
    assert np.array_equal(Engine(settings)(color), Engine(settings)(to_gray(color)))


@needs_kernels
def test_quantized_is_the_flow_quantized():
    settings = replace(QUICK, inner_iterations=4)
    frames = clip(2, 16, 24)
    field = Engine(settings)(frames)
    for bound in (20.0, 0.3):
        levels = Engine(settings).quantized(frames, bound)
        assert levels.dtype == np.uint8
        assert np.array_equal(levels, quantize(field, bound))
    with pytest.raises(ValueError, match="-1"):
        Engine(settings).quantized(frames, -1)


@needs_kernels
def test_flat_equal_and_noisy_frames():
    settings = replace(QUICK, inner_iterations=2, epsilon=0.01)
    noise = np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8)
    frames = np.stack([np.full_like(noise, 9), np.full_like(noise, 9), noise, noise])
    field = Engine(settings)(frames)
    assert np.array_equal(field[[0, 2]], np.zeros_like(field[[0, 2]]))
    assert np.isfinite(field).all()
    assert Engine(settings)(frames[:1]).shape == (0, 2, 16, 24)


@needs_kernels
def test_wrong_frames_are_refused():
    engine = Engine(QUICK)
    with pytest.raises(ValueError, match="float32"):
        engine(np.zeros((2, 32, 32), np.float32))
    with pytest.raises(ValueError, match=r"\(2, 4, 32, 32\)"):
        engine(np.zeros((2, 4, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="32x15 pixels.*at least 16x16"):
        engine(np.zeros((2, 15, 32), np.uint8))


@needs_kernels
def test_the_smallest_kernel_runs():
    pytest.importorskip("actors.flow.cuda.solver").run_smallest(Engine(QUICK).device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(UserError, match="finds no GPU.*'cpu'"):
        CUDAEngine(TVL1())


@pytest.mark.skipif(INTERPRETED, reason="interpreted")
def test_the_cpu_is_for_the_interpreter_only():
    with pytest.raises(UserError, match="TRITON_INTERPRET=1"):
        CUDAEngine(TVL1(), "cpu")


def test_wrong_batch_is_refused():
    with pytest.raises(UserError, match="batch is 0"):
        Engine(TVL1(), batch=0)


@needs_gpu
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_agrees_with_the_cpu_at_full_size(schedule):
    settings = SCHEDULES[schedule]
    frames = np.concatenate([clip(4, 240, 320), clip(2, 240, 320)[::-1]])
    ours = CUDAEngine(settings, batch=3)(frames)
    assert share_within_one(ours, flow(frames, settings)) >= 0.99
    assert np.array_equal(ours, CUDAEngine(settings, batch=3)(frames))

"""TV-L1 against OpenCV, ground truth and known shifts; and the fields' bookkeeping."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from flow_cases import BOUND, opencv_flow, share_within_one, shifted_pair
from scipy import ndimage

from actors.errors import UserError
from actors.flow import (
    TVL1,
    dequantize,
    flip_stack,
    flow,
    get_engine,
    interleave,
    quantize,
    subtract_mean,
    to_gray,
)
from actors.flow.engine import CPUEngine
from actors.flow.settings import SCHEDULES
from actors.flow.tvl1 import PyramidSolver
from benchmarks.flow_parts.clips import read_flo


def endpoint_error(field, truth):
    return np.sqrt(((field - truth) ** 2).sum(axis=0))


def test_finds_a_known_shift():
    field = flow(shifted_pair(), TVL1())[0]
    assert field.dtype == np.float32
    inner = field[:, 8:-8, 8:-8]
    assert np.allclose(inner.mean(axis=(1, 2)), (1.5, -1.0), atol=0.03)


@pytest.mark.parametrize(
    "settings",
    [
        TVL1(),
        TVL1(median_filtering=5),
        TVL1(median_filtering=3, outer_iterations=3),
        TVL1(scales=3, warps=2, outer_iterations=2, inner_iterations=10, lambda_=0.3),
    ],
    ids=["default", "median5", "median3", "quick"],
)
def test_agrees_with_opencv(settings):
    frames = shifted_pair(120, 160, shift=(1.3, 0.7), seed=4)
    assert share_within_one(flow(frames, settings)[0], opencv_flow(frames, settings)) >= 0.99


def test_small_image_drops_scales_as_opencv_does():
    # 24 * .8 = 19, 19 * .8 = 15: two of five scales remain.
    frames = shifted_pair(24, 40, shift=(1.0, 0.5), seed=5)
    settings = TVL1()
    assert share_within_one(flow(frames, settings)[0], opencv_flow(frames, settings)) >= 0.99


def test_agrees_with_stored_opencv_answers(real_data):
    stored = np.load(real_data / "checks" / "tvl1_opencv.npz")
    expected = json.loads((real_data / "checks" / "tvl1_expected.json").read_text())
    for name in ("shift_1p5_m1", "zero"):
        frames = np.stack([stored[f"{name}_a"], stored[f"{name}_b"]])
        field = flow(frames, TVL1(median_filtering=5))[0]
        assert share_within_one(field, stored[f"{name}_flow"].transpose(2, 0, 1)) >= 0.99
        assert np.allclose(field.mean(axis=(1, 2)), expected[name]["mean"], atol=0.01)


def test_agrees_with_opencv_on_real_frames(real_data):
    cv2 = pytest.importorskip("cv2")
    folder = real_data / "flow_middlebury" / "other-data" / "Urban2"
    frames = np.stack(
        [cv2.resize(cv2.imread(str(folder / f"frame{n}.png"), 0), (320, 240)) for n in (10, 11)]
    )
    settings = TVL1()
    assert share_within_one(flow(frames, settings)[0], opencv_flow(frames, settings)) >= 0.99


OPENCV_ERROR = {
    "Grove2": 0.15876,
    "Grove3": 0.77245,
    "RubberWhale": 0.15632,
    "Urban2": 3.68826,
    "Urban3": 2.10433,
}
"""Mean endpoint error, in pixels, of OpenCV 5.0's DualTVL1OpticalFlow without median filter."""


@pytest.mark.parametrize(("schedule", "margin"), [("exact", 1.01), ("fast", 1.05)])
def test_endpoint_error_on_middlebury(real_data, schedule, margin):
    cv2 = pytest.importorskip("cv2")
    folder = real_data / "flow_middlebury"
    for name, limit in OPENCV_ERROR.items():
        frames = np.stack(
            [cv2.imread(str(folder / "other-data" / name / f"frame{n}.png"), 0) for n in (10, 11)]
        )
        truth = read_flo(folder / "other-gt-flow" / name / "flow10.flo")
        known = np.abs(truth).max(axis=0) < 1e9
        error = endpoint_error(flow(frames, SCHEDULES[schedule])[0], truth)[known].mean()
        assert error <= margin * limit, name


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_frames_have_zero_flow(value):
    frames = np.full((2, 40, 48), value, np.uint8)
    assert np.array_equal(flow(frames, TVL1(median_filtering=5)), np.zeros((1, 2, 40, 48)))


def test_equal_frames_have_zero_flow():
    frames = shifted_pair()[[0, 0]]
    for settings in SCHEDULES.values():
        assert np.array_equal(flow(frames, settings), np.zeros((1, 2, 96, 128)))


def test_noise_and_cuts_stay_finite():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 33, 47), np.uint8)
    frames[2] = 0
    for settings in SCHEDULES.values():
        assert np.isfinite(flow(frames, settings)).all()


def test_large_motion_is_found():
    noise = np.random.default_rng(0).normal(size=(240, 320))
    # Structure of every size, as in a real picture.
    texture = sum(size * ndimage.gaussian_filter(noise, size) for size in (1, 2, 4, 8, 16))
    texture = np.clip(128 + 60 * texture, 0, 255).astype(np.uint8)
    frames = np.stack([texture[20:220, 30:300], texture[16:216, 20:290]])
    for settings in (TVL1(scales=8), SCHEDULES["fast"]):
        inner = flow(frames, settings)[0, :, 24:-24, 32:-32]
        far = endpoint_error(inner, np.array([10.0, 4.0])[:, None, None])
        assert np.median(far) < 0.02
        assert np.mean(far < 0.5) > 0.95


def test_smallest_frames():
    assert flow(shifted_pair(16, 16), TVL1()).shape == (1, 2, 16, 16)
    with pytest.raises(ValueError, match="40x15 pixels.*at least 16x16"):
        flow(np.zeros((2, 15, 40), np.uint8), TVL1())


def test_wrong_frames_are_refused():
    with pytest.raises(ValueError, match="float32"):
        flow(np.zeros((2, 32, 32), np.float32), TVL1())
    with pytest.raises(ValueError, match=r"\(32, 32\)"):
        flow(np.zeros((32, 32), np.uint8), TVL1())


def test_one_field_per_pair_and_none_without_a_pair():
    frames = np.concatenate([shifted_pair(32, 32), shifted_pair(32, 32, seed=1)])
    fields = flow(frames, TVL1(warps=1))
    assert fields.shape == (3, 2, 32, 32)
    assert np.array_equal(fields[1:2], flow(frames[1:3], TVL1(warps=1)))
    assert flow(frames[:1], TVL1()).shape == (0, 2, 32, 32)
    assert flow(frames[:0], TVL1()).shape == (0, 2, 32, 32)


def test_rgb_is_turned_to_gray_as_opencv_does():
    cv2 = pytest.importorskip("cv2")
    color = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8)
    expected = [cv2.cvtColor(f.transpose(1, 2, 0), cv2.COLOR_RGB2GRAY) for f in color]
    gray = to_gray(color)
    assert np.abs(gray.astype(int) - expected).max() <= 1
    assert np.mean(gray != expected) < 0.01
    settings = TVL1(scales=1, warps=1, outer_iterations=1)
    assert np.array_equal(flow(color, settings), flow(gray, settings))


def test_threads_side_by_side_agree_with_one():
    pairs = [shifted_pair(48, 64, seed=seed) for seed in range(4)]
    engine = get_engine(TVL1(warps=2))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine, pairs))
    for pair, field in zip(pairs, together, strict=True):
        assert np.array_equal(field, engine(pair))


def test_both_solvers_find_the_same_minimum():
    frames = shifted_pair(40, 56, shift=(0.7, -0.4))
    one = TVL1(scales=1, warps=1, epsilon=0.0, inner_iterations=4000, outer_iterations=1)
    fields = [
        flow(frames, settings)[0]
        for settings in (one, replace(one, solver="primal_dual", tau=0.2, sigma=0.8))
    ]
    assert np.abs(fields[0] - fields[1]).max() < 0.002
    # And a few iterations are far from it, so that the test above says something.
    assert np.abs(flow(frames, replace(one, inner_iterations=20))[0] - fields[0]).max() > 0.05


def test_primal_dual_stops_by_the_rule_too():
    frames = shifted_pair(40, 56, shift=(0.7, -0.4))
    settings = replace(SCHEDULES["fast"], scales=1, warps=1)
    last, stopped, tenth = (
        flow(frames, replace(settings, epsilon=epsilon, inner_iterations=count))
        for epsilon, count in ((0.0, 300), (0.01, 300), (0.0, 10))
    )
    assert 0 < np.abs(stopped - last).mean() < np.abs(tenth - last).mean()


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": 0.0},
        {"scales": 0},
        {"scales": 2.5},
        {"tau": float("inf")},
        {"scale_step": 1.0},
        {"median_filtering": 4},
        {"theta": -1.0},
        {"sigma": 0.0},
        {"solver": "newton"},
    ],
)
def test_wrong_settings_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=name):
        TVL1(**wrong)


def test_steps_too_long_for_primal_dual_are_refused():
    TVL1(tau=0.3, sigma=0.8)  # alternating iterations have no sigma
    with pytest.raises(UserError, match="8 tau sigma is 1.92"):
        TVL1(solver="primal_dual", tau=0.3, sigma=0.8)


def test_arguments_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="settings are 'fast'; give a TVL1, such as SCHEDULES"):
        flow(shifted_pair(), "fast")
    for frames in (list(shifted_pair()), torch.from_numpy(shifted_pair())):
        with pytest.raises(TypeError, match=f"are a {type(frames).__name__}; give a NumPy array"):
            flow(frames)
    with pytest.raises(ValueError, match="threads is 1.5"):
        flow(shifted_pair(), threads=1.5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("height", "width"), [(24, 40), (33, 47), (40, 64)])
def test_what_its_memory_held_before_does_not_matter(schedule, height, width):
    frames, fields = shifted_pair(height, width), []
    for rest in (0.0, np.nan):
        solver, field = (
            PyramidSolver(height, width, SCHEDULES[schedule]),
            np.empty((2, height, width)),
        )
        for memory in (solver._state, solver._other, solver._terms, solver._packed):
            memory[:] = rest
        for frame in frames:
            solver.show(frame)
        solver.solve(field)
        fields.append(field)
    assert np.array_equal(*fields)


def test_threads_share_the_pairs_out():
    clip = np.concatenate([shifted_pair(40, 56, seed=seed) for seed in range(4)])
    settings = TVL1(warps=1, scales=2)
    alone = flow(clip, settings)
    for threads in (2, 3, 16):
        assert np.array_equal(get_engine(settings, threads=threads)(clip), alone)
    with pytest.raises(ValueError, match="threads is 0"):
        flow(clip, settings, threads=0)
    with pytest.raises(UserError, match="threads is 0"):
        CPUEngine(settings, 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_each_thread_builds_a_frames_pyramid_once(monkeypatch, threads):
    shown = []
    monkeypatch.setattr(
        PyramidSolver, "show", lambda self, frame: shown.append((self, int(frame[0, 0])))
    )
    monkeypatch.setattr(PyramidSolver, "solve", lambda self, field: time.sleep(0.001))
    clip = np.zeros((41, 16, 16), np.uint8) + np.arange(41, dtype=np.uint8)[:, None, None]
    flow(clip, TVL1(), threads=threads)
    assert {frame for _, frame in shown} == set(range(41))
    assert len(set(shown)) == len(shown) and (threads > 1 or len(shown) == 41)


@pytest.mark.parametrize("where", ["caller", "helper"])
def test_an_interruption_ends_all_threads(monkeypatch, where):
    solved, caller = [], threading.get_ident()

    def solve(self, field):
        if (threading.get_ident() == caller) == (where == "caller") and len(solved) > 3:
            raise KeyboardInterrupt
        solved.append(1)
        time.sleep(0.001)

    monkeypatch.setattr(PyramidSolver, "solve", solve)
    with pytest.raises(KeyboardInterrupt):
        flow(np.zeros((401, 16, 16), np.uint8), TVL1(), threads=2)
    # What each thread had begun, a run of at most 16 pairs, may be finished.
    assert len(solved) < 100


def test_pairs_are_independent():
    pairs = np.stack([shifted_pair(40, 56, seed=seed) for seed in range(5)])
    settings = TVL1(warps=1, scales=2)
    fields = flow(pairs, settings, threads=2)
    assert fields.shape == (5, 2, 40, 56)
    for pair, field in zip(pairs, fields, strict=True):
        assert np.array_equal(flow(pair, settings)[0], field)
    assert flow(pairs[:0], settings).shape == (0, 2, 40, 56)


def test_any_strides_give_the_same():
    clip = np.concatenate([shifted_pair(40, 57, seed=seed) for seed in range(2)])
    settings = TVL1(warps=1, scales=2)
    views = [
        clip[::-1],
        clip[:, ::-1, ::-1],
        clip[:, ::2, 1::2],
        clip.transpose(0, 2, 1),
        np.broadcast_to(clip[0], (3, 40, 57)),
        np.stack([clip] * 2)[:, 1:3, 3:, 5:],
        np.asfortranarray(clip),
    ]
    for view in views:
        assert np.array_equal(flow(view, settings), flow(view.copy(), settings))


def test_unknown_device_is_refused():
    with pytest.raises(UserError, match="tpu"):
        get_engine(TVL1(), "tpu")


def test_quantize_follows_denseflow(real_data):
    case = json.loads((real_data / "checks" / "tvl1_expected.json").read_text())
    case = case["denseflow_quantize_bound20"]
    values = np.array(case["flow"], np.float32)
    assert quantize(values, BOUND).tolist() == case["uint8"]


def test_quantize_there_and_back():
    values = np.linspace(-20, 20, 4001, dtype=np.float32)
    again = dequantize(quantize(values, BOUND), BOUND)
    assert again.dtype == np.float32
    assert np.abs(again - values).max() <= BOUND / 255 + 1e-5
    assert quantize(np.array([0.0, -99.0, 99.0], np.float32), BOUND).tolist() == [128, 0, 255]
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantize(dequantize(levels, BOUND), BOUND), levels)
    assert torch.allclose(
        dequantize(torch.from_numpy(levels), BOUND), torch.from_numpy(dequantize(levels, BOUND))
    )
    with pytest.raises(ValueError, match="-1"):
        quantize(values, -1)


def test_stacks_alternate_x_and_y():
    fields = np.arange(2 * 3 * 2 * 4 * 5).reshape(2, 3, 2, 4, 5)
    stack = interleave(fields)
    assert stack.shape == (2, 6, 4, 5)
    assert np.array_equal(stack[:, 0::2], fields[:, :, 0])
    assert np.array_equal(stack[:, 1::2], fields[:, :, 1])
    assert torch.equal(interleave(torch.from_numpy(fields)), torch.from_numpy(stack))
    with pytest.raises(ValueError, match=r"\(3, 4, 5\)"):
        interleave(np.zeros((3, 4, 5)))


def test_flipping_a_stack_mirrors_the_motion():
    frames = shifted_pair(48, 64, shift=(2.0, 1.0))
    settings = TVL1(warps=2)
    seen = interleave(flow(frames, settings))
    mirrored = interleave(flow(np.ascontiguousarray(frames[..., ::-1]), settings))
    # The forward and backward differences are not symmetric, so nor are the fields' edges.
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert np.abs(flip_stack(seen) - mirrored)[inner].mean() < 0.05
    assert np.abs(seen - mirrored)[inner].mean() > 1


def test_flipping_bytes_negates_x_only():
    stack = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 8), np.uint8)
    original = stack.copy()
    flipped = flip_stack(stack)
    assert flipped.dtype == np.uint8
    assert np.array_equal(flipped[:, 0::2], 255 - stack[:, 0::2, :, ::-1])
    assert np.array_equal(flipped[:, 1::2], stack[:, 1::2, :, ::-1])
    assert np.array_equal(flip_stack(flipped), stack)
    assert np.array_equal(stack, original)
    assert torch.equal(flip_stack(torch.from_numpy(stack)), torch.from_numpy(flipped))
    with pytest.raises(ValueError, match=r"\(3, 6, 8\)"):
        flip_stack(stack[0, :3])


def test_subtracting_the_mean_leaves_relative_motion():
    stack = np.random.default_rng(0).normal(3, 1, (2, 4, 6, 8)).astype(np.float32)
    centered = subtract_mean(stack)
    assert np.abs(centered.mean(axis=(2, 3))).max() < 1e-5
    assert np.allclose(centered, stack - stack.mean(axis=(2, 3))[..., None, None])
    assert torch.allclose(
        subtract_mean(torch.from_numpy(stack)), torch.from_numpy(centered), atol=1e-5
    )
    with pytest.raises(TypeError, match="uint8"):
        subtract_mean(np.zeros((2, 4, 4), np.uint8))

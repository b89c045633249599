"""TV-L1 against OpenCV, ground truth and known shifts; and the fields' bookkeeping."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba.core.caching import FunctionCache
from scipy import ndimage

from actors.errors import UserError
from actors.flow import (
    TVL1,
    compile_kernels,
    dequantise,
    flip_stack,
    flow,
    get_engine,
    interleave,
    kernels,
    quantise,
    subtract_mean,
    to_gray,
)
from actors.flow.compiling import compiled
from actors.flow.engine import CPUEngine
from actors.flow.networks import median_network
from actors.flow.settings import SCHEDULES
from benchmarks.flow_parts.contenders import opencv_tvl1

BOUND = 20.0


def shifted_pair(height=96, width=128, shift=(1.5, -1.0), seed=0):
    """Smooth random texture and the same moved by (x, y) pixels; periodic, made of waves."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float)
    frames = []
    waves = [(*rng.uniform(-0.6, 0.6, 2), rng.uniform(0, 2 * np.pi)) for _ in range(24)]
    for dx, dy in ((0.0, 0.0), shift):
        frame = sum(np.sin(a * (x - dx) + b * (y - dy) + c) for a, b, c in waves)
        frames.append(np.clip(128 + 18 * frame, 0, 255).astype(np.uint8))
    return np.stack(frames)


def opencv_flow(frames, settings):
    pytest.importorskip("cv2")
    return opencv_tvl1(settings)(frames)


def share_within_one(ours, theirs):
    ours, theirs = (quantise(field, BOUND).astype(int) for field in (ours, theirs))
    return np.mean(np.abs(ours - theirs) <= 1)


def endpoint_error(field, truth):
    return np.sqrt(((field - truth) ** 2).sum(axis=0))


def read_flo(path: Path):
    raw = path.read_bytes()
    width, height = np.frombuffer(raw, "<i4", 2, offset=4)
    values = np.frombuffer(raw, "<f4", 2 * width * height, offset=12)
    return values.reshape(height, width, 2).transpose(2, 0, 1)


def in_planes(values, stride):
    """(n, H, W) as planes of the kernels' layout: a row of zeros first, zeros after each row."""
    count, height, width = values.shape
    planes = np.zeros((count, height + 2, stride), np.float32)
    planes[:, 1:-1, :width] = values
    return planes.reshape(count, -1)


def from_planes(planes, height, width):
    return planes.reshape(len(planes), height + 2, -1)[:, 1:-1, :width]


def plain_iteration(u, p, g, inverse, rho, limit, theta, tau):
    """Zach et al., Eqs. 14 and 15, as they are written; u (2, H, W), p (2, 2, H, W), g (2, H, W).

    Returns the new u and p, and the summed squared change of u.
    """
    step = np.clip(-(rho + (g * u).sum(axis=0)) * inverse, -limit, limit)
    divergence = p[:, 0] + p[:, 1]
    divergence[:, :, 1:] -= p[:, 0, :, :-1]
    divergence[:, 1:] -= p[:, 1, :-1]
    new = u + step * g + theta * divergence
    gradient = np.zeros_like(p)
    gradient[:, 0, :, :-1] = np.diff(new, axis=2)
    gradient[:, 1, :-1] = np.diff(new, axis=1)
    norm = np.sqrt((gradient**2).sum(axis=1, keepdims=True))
    p = (p + tau / theta * gradient) / (1 + tau / theta * norm)
    return new, p, ((new - u) ** 2).sum()


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
    planes = in_planes(np.concatenate([u, theta * p.reshape(4, height, width), g]), stride)
    data = in_planes(np.stack([inverse, rho]), stride)
    taus = np.zeros(stride, np.float32)
    taus[:width] = tau
    errors = np.empty(8)
    numbers = np.float32(limit), np.float32(tau / theta)
    kernels.iterate(*planes, *data, taus, height, width, stride, *numbers, errors, count)
    plain = []
    for _ in range(count):
        u, p, error = plain_iteration(u, p, g, inverse, rho, limit, theta, tau)
        plain.append(error)
    found = from_planes(planes, height, width)
    assert np.allclose(errors[:count], plain, rtol=1e-4)
    assert np.allclose(found[:2], u, atol=1e-4)
    assert np.allclose(found[2:6], theta * p.reshape(4, height, width), atol=1e-4)
    # What stands for outside has stayed zero, but for the column that repeats u's last.
    planes = planes.reshape(8, height + 2, stride)
    assert not planes[:, [0, -1]].any() and not planes[2:, :, width:].any()
    assert not planes[:2, :, width + 1 :].any()


def test_blocks_end_no_later_than_the_change_falls_to_the_tolerance():
    # Errors of a real warp, divided by the tolerance; the stop rule ends it at the last.
    errors = [20.38, 7.15, 3.59, 2.43, 2.16, 2.09, 2.08, 2.06, 1.97, 1.84, 1.71, 1.57, 1.44, 1.37]
    errors += [1.31, 1.26, 1.19, 1.12, 1.09, 1.09, 1.06, 1.02, 0.97]
    done, before, blocks = 0, 0.0, []
    while done < len(errors):
        blocks.append(kernels.next_block(errors[max(done - 1, 0)], before, 1.0, 30 - done))
        done += blocks[-1]
        before = errors[done - 2] if done > 1 else 0.0
    assert done == len(errors)
    assert max(blocks) > 3
    assert kernels.next_block(5.0, 9.0, 0.0, 30) == kernels.LONGEST_BLOCK
    assert kernels.next_block(5.0, 9.0, 0.0, 3) == 3


def plain_cubic(t, a):
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def plain_warp(image, u, v, a):
    """Keys, 1981: the sum over all pixels, those outside counting as zero."""
    height, width = image.shape
    found = np.empty((height, width))
    for y, x in np.ndindex(height, width):
        down = [plain_cubic(y + v[y, x] - j, a) for j in range(height)]
        along = [plain_cubic(x + u[y, x] - i, a) for i in range(width)]
        found[y, x] = down @ image @ along
    return found


@pytest.mark.parametrize("cubic", [-0.75, -0.5])
def test_linearisation_agrees_with_a_plain_one(cubic):
    height, width, stride = 17, 21, 32
    rng = np.random.default_rng(1)
    first, second = rng.uniform(0, 255, (2, height, width)).astype(np.float32)
    # Some displacements reach beyond the frame, some far.
    field = rng.normal(size=(2, height, width)) * rng.choice([1, 5, 1000], (height, width))
    planes = in_planes(np.zeros((kernels.PLANES, height, width)), stride)
    planes[:2] = in_planes(field, stride)
    packed = np.full(4 * (height + 8) * (width + 8), np.nan, np.float32)
    kernels.pack(second.ravel(), packed, height, width)
    kernels.linearise(first.ravel(), packed, planes, height, width, stride, cubic)
    edges = np.pad(second.astype(float), 1, mode="edge")
    dx = (edges[1:-1, 2:] - edges[1:-1, :-2]) / 2
    dy = (edges[2:, 1:-1] - edges[:-2, 1:-1]) / 2
    value, gx, gy = (plain_warp(image, *field, cubic) for image in (second, dx, dy))
    squared = gx**2 + gy**2
    found = from_planes(planes, height, width)
    assert np.allclose(found[kernels.GX], gx, atol=0.05)
    assert np.allclose(found[kernels.GY], gy, atol=0.05)
    known = squared > 1
    assert np.allclose(found[kernels.INVERSE][known] * squared[known], 1, atol=0.05)
    inside = np.abs(field).max(axis=0) < 20
    rho = value - gx * field[0] - gy * field[1] - first
    assert np.allclose(found[kernels.RHO][inside], rho[inside], atol=0.1)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(16, 19), (3, 17), (24, 33)])
def test_median_agrees_with_scipy(side, height, width):
    stride = 48
    image = np.random.default_rng(2).normal(size=(1, height, width)).astype(np.float32)
    planes = in_planes(np.concatenate([image, image]), stride)
    kernels.median(*planes, height, width, stride, side, median_network(side))
    expected = ndimage.median_filter(image[0], side, mode="nearest")
    assert np.array_equal(from_planes(planes, height, width)[0], expected)


@pytest.mark.parametrize("step", [0.8, 0.75, 0.5])
def test_resizing_agrees_with_opencv(step):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(3).uniform(0, 255, (37, 53)).astype(np.float32)
    height, width = round(37 * step), round(53 * step)
    found = np.empty(height * width, np.float32)
    shapes = (37, 53, 53, 0), (height, width, width, 0)
    kernels.resize(image.ravel(), shapes[0], found, shapes[1], 1 / step, 1 / step, 1.0)
    expected = cv2.resize(image, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
    assert np.allclose(found.reshape(height, width), expected, atol=0.02)


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
    colour = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8)
    expected = [cv2.cvtColor(f.transpose(1, 2, 0), cv2.COLOR_RGB2GRAY) for f in colour]
    gray = to_gray(colour)
    assert np.abs(gray.astype(int) - expected).max() <= 1
    assert np.mean(gray != expected) < 0.01
    settings = TVL1(scales=1, warps=1, outer_iterations=1)
    assert np.array_equal(flow(colour, settings), flow(gray, settings))


def test_threads_side_by_side_agree_with_one():
    pairs = [shifted_pair(48, 64, seed=seed) for seed in range(4)]
    engine = get_engine(TVL1(warps=2))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine, pairs))
    for pair, field in zip(pairs, together, strict=True):
        assert np.array_equal(field, engine(pair))


@pytest.mark.parametrize(
    "wrong",
    [{"tau": 0.0}, {"scales": 0}, {"scale_step": 1.0}, {"median_filtering": 4}, {"theta": -1.0}],
)
def test_wrong_settings_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=name):
        TVL1(**wrong)


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


def test_the_package_imports_no_compiler():
    code = "import sys, actors.flow.engine; print('numba' in sys.modules)"
    assert start(code).communicate()[0] == "False\n"


def test_unknown_device_is_refused():
    with pytest.raises(UserError, match="tpu"):
        get_engine(TVL1(), "tpu")


def test_compiling_leaves_nothing_to_compile():
    compile_kernels()
    names = ("resize", "pack", "solve_scale")
    before = {name: len(getattr(kernels, name).signatures) for name in names}
    assert set(before.values()) == {1}
    flow(shifted_pair(), TVL1(median_filtering=5))
    flow(shifted_pair()[:, ::2, ::2], SCHEDULES["fast"])
    assert before == {name: len(getattr(kernels, name).signatures) for name in names}


COMPILE_ONE = """
import numpy as np
from actors.flow import kernels
print(kernels.next_block(4.0, 8.0, 1.0, 30))
"""


def start(code, folder=Path(__file__).parents[2], **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "XDG_CACHE_HOME"])
def test_processes_that_start_at_once_share_a_cache_outside_the_package(
    tmp_path, monkeypatch, variable
):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    package = Path(kernels.__file__).parent
    before = sorted(package.rglob("*.nb?"))
    processes = [start(COMPILE_ONE, **{variable: str(tmp_path)}) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["2\n"] * 2
    assert len(list(tmp_path.rglob("*next_block*.nbi"))) == 1
    assert sorted(package.rglob("*.nb?")) == before


COUNT = (
    COMPILE_ONE
    + """
stats = kernels.next_block.stats
print(kernels.__file__, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
)


def test_a_copy_elsewhere_finds_what_was_compiled_and_a_change_compiles_anew(tmp_path, monkeypatch):
    """As the jobs of `ray job submit --working-dir .` do, each unpacked at a path of its own."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    package = Path(kernels.__file__).parents[1]
    found = {}
    for place, changed in (("a", None), ("b", None), ("c", "kernels.py"), ("d", "compiling.py")):
        copy = tmp_path / place / "actors"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if changed:
            with open(copy / "flow" / changed, "a") as file:
                file.write("# changed\n")
        run = start(COUNT, copy.parent, XDG_CACHE_HOME=str(tmp_path / "cache"))
        result, path, hits, misses = run.communicate()[0].split()
        assert (result, path) == ("2", str(copy / "flow" / "kernels.py"))
        found[place] = int(hits), int(misses)
    assert found == {"a": (0, 1), "b": (1, 0), "c": (0, 1), "d": (0, 1)}


def test_other_users_of_numba_keep_their_cache():
    def plain(x):
        return x

    ours, theirs = compiled()(plain), numba.njit(cache=True)(plain)
    assert type(theirs._cache) is FunctionCache
    assert ours._cache.cache_path != theirs._cache.cache_path


def test_every_compiled_loop_has_its_cache_outside_the_package():
    from actors.flow import field_kernels
    from trainers.comparison import kernels as chi2

    for loop in (kernels.solve_scale, field_kernels.quantise_into, chi2._distances):
        folder = Path(loop._cache.cache_path)
        assert Path(loop.py_func.__code__.co_filename).parent not in (folder, *folder.parents)


def test_quantise_follows_denseflow(real_data):
    case = json.loads((real_data / "checks" / "tvl1_expected.json").read_text())
    case = case["denseflow_quantize_bound20"]
    values = np.array(case["flow"], np.float32)
    assert quantise(values, BOUND).tolist() == case["uint8"]


def test_quantise_there_and_back():
    values = np.linspace(-20, 20, 4001, dtype=np.float32)
    again = dequantise(quantise(values, BOUND), BOUND)
    assert again.dtype == np.float32
    assert np.abs(again - values).max() <= BOUND / 255 + 1e-5
    assert quantise(np.array([0.0, -99.0, 99.0], np.float32), BOUND).tolist() == [128, 0, 255]
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantise(dequantise(levels, BOUND), BOUND), levels)
    assert torch.allclose(
        dequantise(torch.from_numpy(levels), BOUND), torch.from_numpy(dequantise(levels, BOUND))
    )
    with pytest.raises(ValueError, match="-1"):
        quantise(values, -1)


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
    centred = subtract_mean(stack)
    assert np.abs(centred.mean(axis=(2, 3))).max() < 1e-5
    assert np.allclose(centred, stack - stack.mean(axis=(2, 3))[..., None, None])
    assert torch.allclose(
        subtract_mean(torch.from_numpy(stack)), torch.from_numpy(centred), atol=1e-5
    )
    with pytest.raises(TypeError, match="uint8"):
        subtract_mean(np.zeros((2, 4, 4), np.uint8))

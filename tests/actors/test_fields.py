"""What is done with flow fields, against the plain definitions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from actors.flow import dequantize, fields, flip_stack, quantize, subtract_mean
from actors.media.codecs import decode, encode


def quantize_plainly(flow, bound):
    """The rule of denseflow's convertFlowToImage, a value at a time."""
    levels = []
    for value in flow.ravel().tolist():
        if value > bound:
            levels.append(255)
        elif value < -bound:
            levels.append(0)
        else:
            levels.append(round(255 * (value + bound) / (2 * bound)))  # half to even
    return np.array(levels, np.uint8).reshape(flow.shape)


def motion(*shape, seed=0, spread=12.0):
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


@pytest.mark.parametrize("bound", [20.0, 40, 15.0, 7.3])
def test_quantize_is_the_plain_rule(bound):
    ties = (np.arange(255, dtype=np.float64) + 0.5) * 2 * bound / 255 - bound
    ends = [0.0, -0.0, bound, -bound, np.inf, -np.inf, 1e9, 1e-30]
    values = np.concatenate([motion(5000), ties, ends]).astype(np.float32)
    assert np.array_equal(quantize(values, bound), quantize_plainly(values, bound))


def test_quantize_takes_any_strides_and_shapes():
    flow = motion(3, 2, 9, 14)
    for view in (flow[::2], flow[..., ::-1], flow.transpose(0, 2, 3, 1), flow[:0]):
        levels = quantize(view)
        assert levels.dtype == np.uint8 and levels.shape == view.shape
        assert np.array_equal(levels, quantize_plainly(view, 20.0))


@pytest.mark.parametrize("bound", [20.0, 40.0])
def test_dequantize_is_the_plain_rule_and_leaves_its_input(bound):
    levels = np.arange(256, dtype=np.uint8).reshape(2, 2, 8, 8)
    plain = np.array([v * 2 * bound / 255 - bound for v in range(256)]).reshape(levels.shape)
    kept = levels.copy()
    for pixels in (dequantize(levels, bound), dequantize(torch.from_numpy(levels), bound).numpy()):
        assert pixels.dtype == np.float32
        assert np.abs(pixels - plain).max() < 1e-5
    assert np.array_equal(levels, kept)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_flip_is_the_plain_rule(dtype):
    stack = (np.random.default_rng(1).integers(0, 256, (2, 6, 5, 7))).astype(dtype)
    kept = stack.copy()
    plain = np.empty_like(stack)
    for channel in range(6):
        for x in range(7):
            value = stack[:, channel, :, 6 - x]
            negated = 255 - value if dtype == np.uint8 else -value
            plain[..., channel, :, x] = value if channel % 2 else negated
    for flipped in (flip_stack(stack), flip_stack(torch.from_numpy(stack)).numpy()):
        assert flipped.dtype == dtype
        assert np.array_equal(flipped, plain)
    crop = torch.from_numpy(stack)[..., 1:4, 2:6]  # a view, as training has it
    assert np.array_equal(flip_stack(crop), flip_stack(stack[..., 1:4, 2:6]))
    assert np.array_equal(stack, kept)


def test_flip_refuses_what_is_neither_levels_nor_pixels():
    for stack in (np.zeros((4, 3, 3), np.int16), torch.zeros(4, 3, 3, dtype=torch.int8)):
        with pytest.raises(TypeError, match="int(16|8); give uint8"):
            flip_stack(stack)


def test_mean_is_taken_from_each_field():
    stack = motion(2, 4, 6, 8, spread=1.0) + 5
    for centered in (subtract_mean(stack), subtract_mean(torch.from_numpy(stack)).numpy()):
        for field, whole in zip(centered.reshape(8, 6, 8), stack.reshape(8, 6, 8), strict=True):
            assert np.allclose(field, whole - np.mean(whole, dtype=np.float64), atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (21, 30), (240, 320)])
def test_fields_come_back_from_their_codecs(size):
    y, x = np.mgrid[: size[0], : size[1]] / 40
    field = np.stack([8 * np.sin(x + y), 5 * np.cos(x - y)]).astype(np.float32)
    levels = quantize(np.stack([field, field / 3]))
    packed = encode(levels, codec="zstd", quality=0)
    blobs = [np.frombuffer(blob, np.uint8) for blob in packed]
    assert np.array_equal(decode(blobs, codec="zstd", channels=2, size=size), levels)
    packed = encode(levels, codec="jpeg", quality=85)
    blobs = [np.frombuffer(blob, np.uint8) for blob in packed]
    again = decode(blobs, codec="jpeg", channels=2, size=size)
    assert again.shape == levels.shape
    assert np.abs(again.astype(int) - levels).mean() < 1


def test_fields_need_neither_torch_nor_numba_to_be_read():
    program = (
        "import sys, importlib.util as u, numpy as np;"
        f"spec = u.spec_from_file_location('fields', {fields.__file__!r});"
        "m = u.module_from_spec(spec); spec.loader.exec_module(m);"
        "m.flip_stack(m.interleave(np.zeros((1, 3, 2, 4, 4), np.uint8)));"
        "m.subtract_mean(m.dequantize(np.zeros((2, 4, 4), np.uint8)));"
        "sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0

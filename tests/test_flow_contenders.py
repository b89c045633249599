"""What benchmarks/flow.py measures the flow against, as far as it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.flow_parts.contenders import importable, others

SHIFT = (1.5, -1.0)


def shifted_pair() -> np.ndarray:
    """Soft random texture and the same, SHIFT pixels further."""
    rng = np.random.default_rng(0)
    waves = [(*rng.uniform(-0.6, 0.6, 2), rng.uniform(0, 2 * np.pi)) for _ in range(24)]
    y, x = np.mgrid[:96, :128].astype(float)
    frames = [
        128 + 18 * sum(np.sin(a * (x - dx) + b * (y - dy) + c) for a, b, c in waves)
        for dx, dy in ((0.0, 0.0), SHIFT)
    ]
    return np.clip(frames, 0, 255).astype(np.uint8)


@pytest.mark.skipif(not importable("cv2"), reason="OpenCV is not installed")
def test_opencvs_are_there():
    names = {f"OpenCV {n}" for n in ("DIS ultrafast", "DIS fast", "DIS medium", "Farneback")}
    assert names <= set(others())


@pytest.mark.skipif(not importable("skimage"), reason="scikit-image is not installed")
def test_scikit_image_is_there():
    assert "scikit-image TV-L1" in others()


@pytest.mark.parametrize("name", [n for n in others() if not n.startswith("RAFT")])
def test_each_finds_a_shift_x_first(name):
    field = others()[name](shifted_pair())
    assert field.shape == (2, 96, 128) and field.dtype == np.float32
    assert np.abs(np.median(field, axis=(1, 2)) - SHIFT).max() < 0.3

"""Frames that move as known, OpenCV's flow of them, and the iterations written plainly."""

from __future__ import annotations

import numpy as np
import pytest

from actors.flow import quantize
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
    ours, theirs = (quantize(field, BOUND).astype(int) for field in (ours, theirs))
    return np.mean(np.abs(ours - theirs) <= 1)


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


def plain_primal_dual(u, p, g, inverse, rho, limit, tau, sigma, theta):
    """Chambolle and Pock, 2011, Algorithm 1; shapes as in `plain_iteration`, p not times theta.

    The data term's proximal map is written by Moreau's identities: of |rho| smoothed by theta it is
    tau / (tau + theta) of the way to that of |rho| itself for a step of tau + theta.

    Returns the new u and p, and the summed squared change of u.
    """
    divergence = p[:, 0] + p[:, 1]
    divergence[:, :, 1:] -= p[:, 0, :, :-1]
    divergence[:, 1:] -= p[:, 1, :-1]
    new = u + tau * divergence
    reach = limit * (tau + theta)
    step = np.clip(-(rho + (g * new).sum(axis=0)) * inverse, -reach, reach)
    new = new + tau / (tau + theta) * step * g
    ahead = 2 * new - u
    gradient = np.zeros_like(p)
    gradient[:, 0, :, :-1] = np.diff(ahead, axis=2)
    gradient[:, 1, :-1] = np.diff(ahead, axis=1)
    p = p + sigma * gradient
    p = p / np.maximum(1, np.sqrt((p**2).sum(axis=1, keepdims=True)))
    return new, p, ((new - u) ** 2).sum()


def keys(distance, a):
    """The bicubic kernel with its free parameter, as Keys (1981) defines it."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))

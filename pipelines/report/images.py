"""Pictures small enough to embed in the page: frames, flow fields and spectrograms."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actors.flow.color import flow_to_color

SIDE_PX = 220
"""Longest side of a picture; drawn at about two thirds of it, for high-resolution screens."""


def pick_evenly(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Returns at most ``count`` of (n, H, W, 3) frames, evenly spread, first and last included."""
    if len(frames) <= count:
        return frames
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]


def frame_uri(frame: NDArray[np.uint8]) -> str:
    """Returns an (H, W, 3) uint8 RGB frame as the data URI of a JPEG."""
    return _data_uri(_fit(Image.fromarray(frame)), "JPEG", quality=78, optimize=True)


def flow_uri(flow: NDArray[np.floating]) -> str:
    """Returns a (2, H, W) flow field in pixels as the data URI of a JPEG, Middlebury's colors."""
    return _data_uri(_fit(Image.fromarray(flow_to_color(flow))), "JPEG", quality=82, optimize=True)


def wheel_uri(size: int = 72) -> str:
    """Returns the color wheel of the flow as the data URI of a PNG."""
    axis = np.linspace(-1.02, 1.02, size)
    x, y = np.meshgrid(axis, axis)
    inside = np.hypot(x, y) <= 1
    color = flow_to_color(np.stack([x, y]) * inside, max_px=1)
    return _data_uri(Image.fromarray(np.dstack([color, np.uint8(255) * inside])), "PNG")


def spectrogram_uri(spectrogram: NDArray[np.floating]) -> str:
    """Returns an (F, T) spectrogram as the data URI of a PNG, low frequencies at the bottom.

    Colors cover the 2nd to the 99.5th percentile, so that a single peak does not darken the rest.
    """
    finite = spectrogram[np.isfinite(spectrogram)]
    low, high = np.percentile(finite, [2, 99.5]) if finite.size else (0.0, 0.0)
    level = (np.nan_to_num(spectrogram, nan=low, posinf=high, neginf=low) - low) / (
        (high - low) or 1
    )
    gray = Image.fromarray((np.clip(level, 0, 1) * 255).astype(np.uint8)[::-1])
    # Sixty-four shades suffice at this size and compress twice as well.
    picture = gray.resize((2 * SIDE_PX, SIDE_PX // 2 + 10), Image.Resampling.BILINEAR)
    picture = picture.point([value // 4 for value in range(256)]).convert("P")
    shades = matplotlib.colormaps["magma"](np.linspace(0, 1, 64))[:, :3]
    picture.putpalette((shades * 255).astype(np.uint8).tobytes())
    return _data_uri(picture, "PNG", optimize=True)


def _fit(picture: Image.Image) -> Image.Image:
    """Shrinks to SIDE_PX; smaller pictures are unchanged (the page scales them up)."""
    picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    return picture


def _data_uri(picture: Image.Image, kind: str, **settings: int | bool) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"

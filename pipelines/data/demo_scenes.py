"""Pictures and sound of the demo videos, computed from a label and a random generator.

Each clue reaches one stream only. Shapes and tints change chroma only, so the gray frames that flow
is computed from show neither. Everything in the picture drifts as one sheet; position, phase and
speed are random, so a still frame shows no direction. Each tint fills half of a clip on average, so
that only the order of frames shows which came first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 64
"""Width and height, pixels."""
FPS = 12
"""Frames per second."""
SAMPLE_RATE = 16_000
"""Sound samples per second, one channel."""
FRAMES = (24, 26, 28)
"""Numbers of frames, even, so that the tints can change place symmetrically about the middle."""

Plane = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """One clip before it is encoded.

    Args:
        luma: uint8 (T, 64, 64), limited range (16..235).
        chroma: uint8 (T, 2, 32, 32), Cb then Cr, 128 is neutral.
        sound: float32 (T / 12 s * 16 kHz,), -1..1.
    """

    luma: NDArray[np.uint8]
    chroma: NDArray[np.uint8]
    sound: NDArray[np.float32]


def make_scene(clues: Mapping[str, str], rng: np.random.Generator) -> Scene:
    """Draws one clip at random, given the values of its clues (`demo_clues.VALUES`)."""
    n_frames = int(rng.choice(FRAMES))
    luma, chroma = _sheet(clues["appearance"], rng)
    shifts = _drift(clues["motion"], n_frames, rng)
    tints = _tints(clues["order"], n_frames, rng)
    moving = _shifted(chroma, shifts / 2) + tints[:, :, None, None]
    # A small random change of brightness hides the effect of the tints on RGB's rounding.
    flicker = rng.uniform(-1, 1, n_frames)[:, None, None]
    return Scene(
        luma=np.clip(np.rint(_shifted(luma, shifts) + flicker), 16, 235).astype(np.uint8),
        chroma=np.clip(np.rint(moving + 128), 16, 240).astype(np.uint8),
        sound=_sound(clues["sound"], n_frames * SAMPLE_RATE // FPS, rng),
    )


def _sheet(shape: str, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Luma (64, 64) and chroma offsets (2, 32, 32) of a sheet that repeats in both directions."""
    luma = rng.uniform(105, 135) + rng.uniform(7, 10) * _texture(rng)
    # Varied chroma averages out the rounding of each color on its way to RGB and on to gray.
    chroma = 3 * np.stack([_texture(rng), _texture(rng)])
    for _ in range(int(rng.integers(4, 7))):
        # Greenish, unlike both tints. Chroma alone, so that flow sees nothing of the shapes.
        hue = np.pi + rng.uniform(0.1, 0.4) * np.pi
        color = rng.uniform(26, 32) * np.array([np.cos(hue), np.sin(hue)])[:, None, None]
        chroma += _cover(shape, rng) * (color - chroma)
    halves = chroma.reshape(2, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))
    return luma, halves


def _texture(rng: np.random.Generator) -> Plane:
    """Random smooth periodic texture of zero mean and unit variance, wavelengths above 6 pixels."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    weight = np.where((frequency > 1 / 40) & (frequency < 1 / 6), 1 / (frequency + 0.02), 0)
    texture = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIDE, SIDE))) * weight).real
    return texture / texture.std()


def _cover(shape: str, rng: np.random.Generator) -> Plane:
    """Share 0..1 of each pixel that one shape covers; a disc and a cross cover equal areas."""
    radius = rng.uniform(5.5, 8)
    place = rng.uniform(0, SIDE, 2)
    turn = rng.uniform(0, np.pi / 2)
    # Nearest copy of the center on the repeating sheet.
    offset = (np.arange(SIDE)[None] - place[:, None] + SIDE / 2) % SIDE - SIDE / 2
    y, x = offset[0][:, None], offset[1][None]
    if shape == "disc":
        outside = np.hypot(x, y) - radius
    else:
        along = np.abs(np.cos(turn) * x + np.sin(turn) * y)
        across = np.abs(np.cos(turn) * y - np.sin(turn) * x)
        # Two bars of width w and length l cover 2 l w - w^2 = pi r^2.
        width = 0.6 * radius
        length = (np.pi * radius**2 + width**2) / (2 * width)
        bars = (
            np.maximum(along - length / 2, across - width / 2),
            np.maximum(across - length / 2, along - width / 2),
        )
        outside = np.minimum(*bars)
    return np.clip(0.5 - outside, 0, 1)


def _drift(direction: str, n_frames: int, rng: np.random.Generator) -> Plane:
    """Positions (T, 2) of the sheet, y and x, in luma pixels: 1.5 to 3 pixels a frame up or down.

    Sideways it strays a little either way, which a left-right flip of the video may reverse.
    """
    speed = rng.uniform(1.5, 3) * (-1 if direction == "up" else 1)
    velocity = np.array([speed, rng.uniform(-0.5, 0.5)])
    return rng.uniform(0, SIDE, 2) + np.arange(n_frames)[:, None] * velocity


def _shifted(sheet: Plane, shifts: Plane) -> Plane:
    """The sheet (..., S, S) at each shift (T, 2): (T, ..., S, S), exact at fractions of a pixel."""
    side = sheet.shape[-1]
    frequency = np.fft.fftfreq(side)
    # The Nyquist frequency has no direction; shifting it would leave an imaginary part.
    frequency[side // 2] = 0
    phase = np.exp(-2j * np.pi * frequency * shifts[..., None])
    kernel = phase[:, 0, :, None] * phase[:, 1, None, :]
    kernel = kernel.reshape(len(shifts), *(1,) * (sheet.ndim - 2), side, side)
    return np.fft.ifft2(np.fft.fft2(sheet) * kernel).real


def _tints(order: str, n_frames: int, rng: np.random.Generator) -> Plane:
    """Chroma offsets (T, 2) of the whole picture: reddish, then bluish, or the other way round.

    The change falls at 40 to 60 % of the clip, as often before the middle as after it.
    """
    strength = rng.uniform(14, 20)
    # Cb, Cr.
    red, blue = np.array([-0.4, 1.0]) * strength, np.array([1.0, -0.4]) * strength
    reach = n_frames // 10
    change = n_frames // 2 + int(rng.integers(-reach, reach + 1))
    first, second = (red, blue) if order == "redfirst" else (blue, red)
    tints = np.where(np.arange(n_frames)[:, None] < change, first, second)
    cast = rng.uniform(-4, 4, 2)  # of the whole clip
    return tints + cast


def _sound(kind: str, n_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Pulses of a low hum or of high chirps over noise; the same loudness on average."""
    time = np.arange(n_samples) / SAMPLE_RATE
    beat = time * rng.uniform(3, 5) + rng.uniform()
    within = beat % 1  # 0..1 over each pulse and the pause after it
    duty = rng.uniform(0.5, 0.8)
    envelope = np.where(within < duty, np.sin(np.pi * within / duty) ** 2, 0)
    if kind == "hum":
        pitch = rng.uniform(110, 220)
        overtone = np.arange(1, 4)[:, None]
        phase = rng.uniform(0, 2 * np.pi, (3, 1))
        tone = (np.sin(2 * np.pi * overtone * pitch * time + phase) / overtone).sum(axis=0)
    else:
        low, high = rng.uniform(1800, 2400), rng.uniform(3000, 4200)
        start, end = (low, high) if rng.uniform() < 0.5 else (high, low)
        sweep = start + (end - start) * np.minimum(within / duty, 1)
        tone = np.sin(2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE + rng.uniform(0, 2 * np.pi))
    clean = envelope * tone
    clean /= np.sqrt(np.mean(clean**2))
    noise = rng.uniform(0.05, 0.25) * rng.standard_normal(n_samples)
    loudness = rng.uniform(0.05, 0.15)
    return np.clip(loudness * (clean + noise), -1, 1).astype(np.float32)

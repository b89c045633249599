#!/usr/bin/env python3
"""Draws the flow of a pair of frames in Middlebury's colors, with the wheel as the key.

    python benchmarks/flow_picture.py OUT.png [--video FILE --frame N | --images FIRST SECOND]

Without a pair of yours it draws one that it makes: a textured ground that drifts, a disc that turns
on it, a ball that flies across; there the true flow is known and stands beside what was found.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from actors.flow import flow  # noqa: E402
from actors.flow.color import flow_to_color  # noqa: E402
from actors.flow.settings import SCHEDULES  # noqa: E402

HEIGHT, WIDTH = 210, 280
GAP, LINE = 8, 18
"""Pixels between panels, and of a panel's title."""

Gray = NDArray[np.uint8]
Field = NDArray[np.float32]


def made_pair(seed: int = 3) -> tuple[Gray, Field]:
    """Two frames, (2, 210, 280), and the flow (2, 210, 280) from the first to the second."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    turn = np.deg2rad(6)
    # The motion of each thing as a function of the place; things in front come last.
    things: list[tuple[Any, Any]] = [
        (lambda u, v: np.full(u.shape, True), lambda u, v: (u * 0 + 2.0, v * 0 - 0.7)),
        (lambda u, v: np.hypot(u - 96, v - 108) < 68,
         lambda u, v: ((u - 96) * (np.cos(turn) - 1) - (v - 108) * np.sin(turn),
                       (u - 96) * np.sin(turn) + (v - 108) * (np.cos(turn) - 1))),
        (lambda u, v: np.hypot(u - 214, v - 74) < 30, lambda u, v: (u * 0 - 3.0, v * 0 + 3.5)),
    ]  # fmt: skip
    first, second = np.zeros((2, HEIGHT, WIDTH))
    truth = np.zeros((2, HEIGHT, WIDTH), np.float32)
    for inside, motion in things:
        tone = texture(rng)
        here = inside(x, y)
        first[here] = tone(x, y)[here]
        truth[:, here] = np.stack(motion(x, y))[:, here]
        # Where a point of the second frame comes from: the motion undone, to well below a pixel.
        u, v = x.copy(), y.copy()
        for _ in range(8):
            dx, dy = motion(u, v)
            u, v = x - dx, y - dy
        there = inside(u, v)
        second[there] = tone(u, v)[there]
    frames = np.stack([first, second])
    return np.clip(frames, 0, 255).astype(np.uint8), truth


def texture(rng: np.random.Generator) -> Any:
    """A tone as a function of the place: a sum of waves of 8 to 60 pixels."""
    angles, phases = rng.uniform(0, 2 * np.pi, (2, 40))
    pace = 2 * np.pi / rng.uniform(8, 60, 40)
    level = rng.uniform(90, 170)

    def tone(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
        waves = zip(angles, phases, pace, strict=True)
        return level + sum(
            11 * np.sin(p * (np.cos(a) * x + np.sin(a) * y) + c) for a, c, p in waves
        )

    return tone


def video_pair(path: Path, number: int) -> Gray:
    """Frames `number` and the next of a video, gray."""
    import av

    with av.open(str(path), metadata_errors="replace") as media:
        frames = [
            frame.to_ndarray(format="gray")
            for _, frame in zip(range(number + 2), media.decode(video=0), strict=False)
        ]
    if len(frames) < number + 2:
        raise SystemExit(f"{path} has {len(frames)} frames; --frame is {number}")
    return np.stack(frames[-2:])


def wheel(size: int, longest: float) -> Image.Image:
    """The key: a disc whose rim is a motion of `longest` pixels in that direction."""
    axis = np.linspace(-1.02, 1.02, size)
    x, y = np.meshgrid(axis, axis)
    inside = np.hypot(x, y) <= 1
    color = flow_to_color(np.stack([x, y]) * inside, max_px=1)
    color[~inside] = 255
    image = Image.fromarray(color)
    ImageDraw.Draw(image).text((2, size - 12), f"{longest:.1f} px", fill="black")
    return image


def panels(frames: Gray, truth: Field | None) -> dict[str, Image.Image]:
    """First frame, second frame, flows in one scale of colors, by title."""
    fields = {} if truth is None else {"true flow": truth}
    fields |= {f"TV-L1, {name}": flow(frames, s)[0] for name, s in SCHEDULES.items()}
    longest = float(np.percentile(np.hypot(*next(iter(fields.values()))), 99.5))
    shown = {"first frame": Image.fromarray(frames[0]).convert("RGB")}
    if truth is None:
        shown["second frame"] = Image.fromarray(frames[1]).convert("RGB")
    for title, field in fields.items():
        shown[title] = Image.fromarray(flow_to_color(field, max_px=longest))
    key = wheel(min(frames.shape[1:]) // 4, longest)
    last = shown[next(reversed(shown))]
    last.paste(key, (last.width - key.width - 4, last.height - key.height - 4))
    return shown


def joined(shown: dict[str, Image.Image]) -> Image.Image:
    """Panels two by two, each with its title above it."""
    width, height = next(iter(shown.values())).size
    cell = width + GAP, height + LINE + GAP
    page = Image.new("RGB", (2 * cell[0] - GAP, (len(shown) + 1) // 2 * cell[1] - GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (title, image) in enumerate(shown.items()):
        left, top = number % 2 * cell[0], number // 2 * cell[1]
        draw.text((left + 2, top + 3), title, fill="black")
        page.paste(image, (left, top + LINE))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--frame", type=int, default=0, help="of the video, from 0")
    parser.add_argument("--images", type=Path, nargs=2)
    chosen = parser.parse_args()
    truth = None
    if chosen.video is not None:
        frames = video_pair(chosen.video, chosen.frame)
    elif chosen.images is not None:
        frames = np.stack([np.asarray(Image.open(path).convert("L")) for path in chosen.images])
    else:
        frames, truth = made_pair()
    joined(panels(frames, truth)).save(chosen.out, optimize=True)


if __name__ == "__main__":
    main()

"""Gray clips to measure on: cut from videos, or made; and Middlebury's pairs with their truth."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.flow.color import UNKNOWN_PX

HEIGHT, WIDTH = 240, 320
SKIPPED = 20
"""Frames passed over at a clip's start, which is often a title or still."""
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".mpg")
PERIOD = 16
"""Frames after which `moved_frames` begin again."""

Gray = NDArray[np.uint8]


def videos_below(folder: Path) -> list[Path]:
    """Video files of a folder and the folders in it, in a random order that is always the same."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def real_clips(folder: Path, count: int, length: int) -> list[Gray]:
    """The middle 320x240 pixels of consecutive frames of videos at least as large.

    Args:
        folder: with videos.
        count: clips wanted.
        length: frames of each.

    Returns:
        (length, 240, 320) each, one per video.

    Raises:
        SystemExit: the folder has too few such videos.
    """
    clips: list[Gray] = []
    for path in videos_below(folder):
        clip = _cut(path, length)
        if clip is not None:
            clips.append(clip)
        if len(clips) == count:
            return clips
    raise SystemExit(
        f"{folder} has {len(clips)} videos of {WIDTH}x{HEIGHT} pixels or more and "
        f"{SKIPPED + length} frames; {count} are wanted (--clips)"
    )


def _cut(path: Path, length: int) -> Gray | None:
    import av

    frames: list[Gray] = []
    try:
        with av.open(str(path), metadata_errors="replace") as media:
            for number, frame in enumerate(media.decode(video=0)):
                if frame.width < WIDTH or frame.height < HEIGHT:
                    return None
                if number >= SKIPPED:
                    frames.append(frame.to_ndarray(format="gray"))
                if len(frames) == length:
                    break
    except (av.FFmpegError, IndexError):  # a damaged file, or one without pictures
        return None
    if len(frames) < length:
        return None
    top, left = (frames[0].shape[0] - HEIGHT) // 2, (frames[0].shape[1] - WIDTH) // 2
    return np.stack(frames)[:, top : top + HEIGHT, left : left + WIDTH].copy()


def demo_clips(count: int, length: int) -> list[Gray]:
    """The same of the demo's videos, five times as wide and high, so that anyone can measure."""
    import av
    from PIL import Image

    from pipelines.data.demo_videos import DemoSettings, make_demo_set

    settings = DemoSettings(train=1, val=0, test=0, broken=0, silent=0, soundless=0)
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        make_demo_set(Path(folder), settings=settings)
        for path in videos_below(Path(folder))[:count]:
            with av.open(str(path)) as media:
                small = [f.to_ndarray(format="gray") for f in media.decode(video=0)][:length]
            large = [Image.fromarray(f).resize((WIDTH, WIDTH), Image.Resampling.BICUBIC)
                     for f in small]  # fmt: skip
            top = (WIDTH - HEIGHT) // 2
            clips.append(np.stack([np.asarray(f)[top : top + HEIGHT] for f in large]))
    return clips


def moved_frames(length: int, *, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Gray:
    """Soft random texture that a smooth field carries to and fro; NumPy only.

    Each frame is 2 sin(2 pi t / PERIOD) times `field_of` away from the first, so that the motion
    between two is up to 2.7 pixels.

    Returns:
        (length, height, width).
    """
    rng = np.random.default_rng(seed)
    waves = [(*rng.uniform(-0.7, 0.7, 2), rng.uniform(0, 2 * np.pi)) for _ in range(40)]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    dx, dy = field_of(height, width)
    frames = []
    for t in range(min(length, PERIOD)):
        way = 2 * np.sin(2 * np.pi * t / PERIOD)
        tone = sum(np.sin(a * (x - way * dx) + b * (y - way * dy) + c) for a, b, c in waves)
        frames.append(np.clip(128 + 16 * tone, 0, 255).astype(np.uint8))
    return np.stack(frames)[np.arange(length) % PERIOD]


def field_of(height: int, width: int) -> NDArray[np.float32]:
    """(2, height, width) pixels: the course of `moved_frames`."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = 2.5 * np.sin(2 * np.pi * y / height) + 1.0
    down = 1.5 * np.cos(2 * np.pi * x / width)
    return np.stack([across, down])


class Truth(NamedTuple):
    """A pair of frames whose flow is known."""

    color: NDArray[np.uint8]
    """(2, 3, H, W) RGB."""
    gray: Gray
    """(2, H, W)."""
    flow: NDArray[np.float32]
    """(2, H, W), pixels."""

    def error(self, flow: NDArray[np.float32]) -> float:
        """Mean endpoint error in pixels, where the truth is known."""
        known = np.abs(self.flow).max(axis=0) <= UNKNOWN_PX
        return float(np.hypot(*(flow - self.flow))[known].mean())


def read_middlebury(folder: Path) -> dict[str, Truth]:
    """The pairs with ground truth of Middlebury's "other" data, by name.

    Raises:
        SystemExit: there are none.
    """
    from PIL import Image

    pairs = {}
    for truth in sorted(folder.glob("other-gt-flow/*/flow10.flo")):
        name = truth.parent.name
        files = [folder / "other-data" / name / f"frame{n}.png" for n in (10, 11)]
        images = [Image.open(f) for f in files]
        pairs[name] = Truth(
            color=np.stack([np.asarray(i.convert("RGB")).transpose(2, 0, 1) for i in images]),
            gray=np.stack([np.asarray(i.convert("L")) for i in images]),
            flow=read_flo(truth),
        )
    if not pairs:
        raise SystemExit(f"{folder} has no other-gt-flow/*/flow10.flo: is it Middlebury's flow?")
    return pairs


def read_flo(path: Path) -> NDArray[np.float32]:
    """Middlebury's format: a magic number, width, height, then x and y by turns."""
    raw = path.read_bytes()
    width, height = np.frombuffer(raw, "<i4", 2, offset=4)
    values = np.frombuffer(raw, "<f4", 2 * width * height, offset=12)
    return values.reshape(height, width, 2).transpose(2, 0, 1)

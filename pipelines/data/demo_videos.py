#!/usr/bin/env python3
"""Makes the demo set: small labeled videos; classes combine appearance, motion, sound and order.

    python pipelines/data/demo_videos.py --out DIR [--seed 0]

Sixteen classes (`demo_clues.CLUES`), 64x64 pixels, 12 frames a second, two seconds, H.264 and AAC
in mp4. The accuracy that each method can reach is known exactly (`demo_clues.ceiling`).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":
    # A script's own folder is on the path, not the repository's root.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import av

from pipelines.data.demo_clues import CLUES
from pipelines.data.demo_scenes import FPS, SAMPLE_RATE, SIDE, Scene, make_scene

VERSION = 4
"""Raised whenever the same settings give different videos, so that older sets are made again."""
MANIFEST = "demo.csv"
MARKER = "demo.json"
BROKEN = ("cut", "noise", "nothing")
"""Kinds of files that cannot be decoded: truncated, random bytes, zero bytes."""


@dataclass(frozen=True)
class DemoSettings:
    """Numbers of clips. Broken, silent and soundless ones are in the training split only."""

    train: int = 20
    """Clips per class to train on."""
    val: int = 4
    """Clips per class to validate on."""
    test: int = 8
    """Clips per class to test on."""
    broken: int = 3
    """Files that cannot be decoded, to be rejected."""
    silent: int = 3
    """Clips whose sound track is digital silence."""
    soundless: int = 3
    """Clips without a sound track."""


@dataclass(frozen=True)
class _Clip:
    """One file to make: `kind` is "whole", "silent", "soundless" or one of BROKEN."""

    number: int
    label: str
    split: str
    kind: str

    @property
    def name(self) -> str:
        kind = "" if self.kind == "whole" else f"-{self.kind}"
        return f"videos/{self.label}-{self.number:04d}{kind}.mp4"


def make_demo_set(out: Path, *, seed: int = 0, settings: DemoSettings | None = None) -> Path:
    """Makes the demo set, unless the folder already holds it.

    The same seed, settings and codecs give the same files, byte for byte.

    Args:
        out: folder for the manifest, and the videos in `videos/`.
        seed: seed of all random numbers.
        settings: numbers of clips.

    Returns:
        The manifest: a CSV table with the columns path (relative to it), label, split and group.
    """
    settings = settings or DemoSettings()
    clips, marker = list(_plan(settings)), _marker(settings, seed)
    if _finished(out, marker, clips):
        return out / MANIFEST
    (out / MARKER).unlink(missing_ok=True)
    (out / "videos").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(lambda clip: _make(out, clip, seed), clips):
            pass
    _write_atomically(out / MANIFEST, _table(clips).encode())
    # Last, so that only a complete set has its marker.
    _write_atomically(out / MARKER, json.dumps(marker, indent=1).encode())
    return out / MANIFEST


def _plan(settings: DemoSettings) -> Iterator[_Clip]:
    """All files; first the same number of each class in each split."""
    numbers = count()
    for split in ("train", "val", "test"):
        for _ in range(getattr(settings, split)):
            for label in CLUES:
                yield _Clip(next(numbers), label, split, "whole")
    labels = list(CLUES)
    odd = [BROKEN[n % len(BROKEN)] for n in range(settings.broken)]
    odd += ["silent"] * settings.silent + ["soundless"] * settings.soundless
    for n, kind in enumerate(odd):
        # Steps of 5 visit all 16 classes before one repeats.
        yield _Clip(next(numbers), labels[5 * n % len(labels)], "train", kind)


def is_made(out: Path, *, seed: int = 0, settings: DemoSettings | None = None) -> bool:
    """Whether the folder already holds the demo set."""
    settings = settings or DemoSettings()
    return _finished(out, _marker(settings, seed), list(_plan(settings)))


def _marker(settings: DemoSettings, seed: int) -> dict[str, object]:
    description = {"version": VERSION, "seed": seed, **asdict(settings)}
    text = json.dumps(description, sort_keys=True)
    return {"fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16], **description}


def _finished(out: Path, marker: dict[str, object], clips: list[_Clip]) -> bool:
    """Whether the folder holds the complete set that the marker describes."""
    try:
        found = json.loads((out / MARKER).read_text())
    except (OSError, ValueError):
        return False
    files = [out / MANIFEST, *(out / clip.name for clip in clips)]
    return found == marker and all(path.is_file() for path in files)


def _make(out: Path, clip: _Clip, seed: int) -> None:
    """Makes one file; its content depends only on the seed and its number."""
    rng = np.random.default_rng([seed, clip.number])
    path = out / clip.name
    if clip.kind == "nothing":
        path.write_bytes(b"")
        return
    if clip.kind == "noise":
        path.write_bytes(rng.bytes(6000))
        return
    scene = make_scene(CLUES[clip.label], rng)
    sound = np.zeros_like(scene.sound) if clip.kind == "silent" else scene.sound
    data = encode(scene, None if clip.kind == "soundless" else sound)
    # The index of an mp4 file is at its end; without it nothing can be decoded.
    path.write_bytes(data[: len(data) // 3] if clip.kind == "cut" else data)


def encode(scene: Scene, sound: NDArray[np.float32] | None) -> bytes:
    """An mp4 file of the scene's pictures and the sound; None: without a sound track."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # All frames are key frames: predicted ones would contain traces of motion and of their
        # neighbors' tint. One thread gives the same bytes on any machine.
        options = {"crf": "16", "preset": "veryfast", "g": "1", "bf": "0", "threads": "1"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate = 32_000
        for luma, chroma in zip(scene.luma, scene.chroma, strict=True):
            planes = np.concatenate([luma, chroma.reshape(-1, SIDE)])
            container.mux(video.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.time_base = Fraction(1, SAMPLE_RATE)
            frame.pts = 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return stream.getvalue()


def _table(clips: list[_Clip]) -> str:
    """The manifest; each clip is its own group."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "label", "split", "group"))
    for clip in clips:
        writer.writerow((clip.name, clip.label, clip.split, f"g{clip.number:04d}"))
    return stream.getvalue()


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Makes the demo set of small labeled videos.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the videos")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    arguments = parser.parse_args()
    print(make_demo_set(arguments.out, seed=arguments.seed))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Embedding through Ray Data against the same encoder in a bare loop, on the same cores.

    python benchmarks/embed.py [--rounds 3]

A large encoder (torchvision's VGG-19 on 224x224) and a small one (own:vgg_small on 56x56), both
with random weights, on artifacts of random pictures. Both sides use as many processes with one
thread each, in turn (A B A B ...); see benchmarks/pool_rates.py. Figures: one JSON object on the
last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.cli.launch import prepare  # noqa: E402

prepare()

import numpy as np  # noqa: E402

from actors.artifact import VERSION, Clip, ImageSpool, artifact_name, pieces  # noqa: E402
from actors.storage import Storage  # noqa: E402
from benchmarks.pool_rates import compare  # noqa: E402
from trainers.embedding import ClipEmbedder  # noqa: E402
from trainers.encoders.task import open_stream  # noqa: E402
from trainers.network_files import save_network  # noqa: E402
from trainers.settings import EmbeddingSettings  # noqa: E402
from trainers.streams.settings import StreamSettings  # noqa: E402

NETWORK = "network.safetensors"

CASES: dict[str, tuple[StreamSettings, int, tuple[int, int], int]] = {
    "large": (
        StreamSettings(
            encoder="torchvision:vgg19",
            weights="none",
            crop=224,
            embed=EmbeddingSettings(max_steps=8, test_samples=8),
        ),
        *(40, (256, 340), 8),
    ),
    "small": (
        StreamSettings(
            encoder="own:vgg_small",
            weights="none",
            crop=56,
            embed=EmbeddingSettings(max_steps=24, test_samples=24),
        ),
        *(1000, (64, 85), 24),
    ),
}
"""Case -> the stream; clips; height and width of a frame; frames per clip."""


def write_artifact(
    folder: Storage, number: int, *, size: tuple[int, int], frames: int
) -> dict[str, str]:
    """Writes a clip of random pictures; returns its row."""
    spool = ImageSpool("jpeg", 90)
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (frames, 3, size[0] // 8 + 1, size[1] // 8 + 1), np.uint8)
    spool.append(coarse.repeat(8, 2).repeat(8, 3)[:, :, : size[0], : size[1]])
    metadata: dict[str, Any] = {"version": VERSION, "codec": "jpeg", "n_frames": frames}
    metadata |= {"n_flow": 0, "size": size, "sound": None, "fps": 10.0, "frame_every": 1}
    name = artifact_name(f"clip {number}")
    folder.write_bytes(name, b"".join(pieces(Clip(metadata, spool.tensors("frames")))))
    return {"id": str(number), "name": name, "artifact": folder.path(name)}


def embedder(network: Storage, settings: StreamSettings, output: Storage) -> ClipEmbedder:
    return ClipEmbedder(network, NETWORK, "frames", settings, output)


def measure(name: str, folder: Storage, *, processes: int, rounds: int) -> dict[str, Any]:
    """Clips and samples per second of one case."""
    settings, clips, size, frames = CASES[name]
    rows = [write_artifact(folder, i, size=size, frames=frames) for i in range(clips)]
    _, encoder = open_stream("frames", settings, n_classes=101)
    save_network(folder, NETWORK, encoder)
    make = partial(embedder, folder, settings)
    figures = compare(make, rows, processes=processes, rounds=rounds)
    samples = {
        f"{side}_samples_per_s": frames * figures[f"{side}_clips_per_s"] for side in ("bare", "ray")
    }
    return {"clips": clips, "samples_per_clip": frames, **samples, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=list(CASES), action="append")
    chosen = parser.parse_args()
    processes = os.cpu_count() or 1
    import ray

    ray.init(address="local", log_to_driver=False, include_dashboard=False, logging_level=40)
    figures: dict[str, Any] = {}
    for name in chosen.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = measure(
                name, Storage(folder), processes=processes, rounds=chosen.rounds
            )
    ray.shutdown()
    for values in figures.values():
        values |= {k: round(v, 3) for k, v in values.items() if isinstance(v, float)}
    print(json.dumps({**figures, "processes": processes, "machine": platform.machine()}))


if __name__ == "__main__":
    main()

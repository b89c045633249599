#!/usr/bin/env python3
"""Extraction through Ray Data against the same functions in a bare loop, and memory per worker.

    python benchmarks/extract.py [--clips 120] [--rounds 3]

Both sides use as many processes with one thread each, on the demo's videos, in turn (A B A B ...);
see benchmarks/pool_rates.py. Memory is the largest resident set of a process that extracts n and
10 n clips, and clips of t and 10 t seconds. Figures: one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipelines.cli.launch import ROOT, prepare  # noqa: E402

prepare()

from actors.artifact import artifact_name  # noqa: E402
from actors.extraction import ClipExtractor  # noqa: E402
from actors.storage import Storage  # noqa: E402
from actors.tracks import TRACKS  # noqa: E402
from benchmarks.pool_rates import compare  # noqa: E402
from pipelines.cli.settings import parse_settings  # noqa: E402
from pipelines.data.demo_videos import make_demo_set  # noqa: E402

Row = dict[str, str]


def rows_of(paths: list[str]) -> list[Row]:
    return [{"id": p, "path": p, "name": artifact_name(p)} for p in paths]


def extractor(output: Storage) -> ClipExtractor:
    settings = parse_settings("", ["--preset", "demo"]).extract
    return ClipExtractor(settings, TRACKS, output)


def _peak_of(paths: list[str], queue: Any) -> None:
    with tempfile.TemporaryDirectory() as output:
        worker = extractor(Storage(output))
        for row in rows_of(paths):
            worker(row)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_mb(paths: list[str]) -> float:
    """Largest resident set, in MB, of a fresh process that extracts these files."""
    context = mp.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak_of, args=(paths, queue))
    process.start()
    peak = queue.get(timeout=600)
    process.join()
    return float(peak)


def make_clip(path: Path, seconds: float) -> str:
    """A 320x240 H.264 clip with moving noise and AAC sound."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=12, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for step in range(int(seconds * 12)):
            shifted = np.roll(picture, step, axis=0)
            container.mux(video.encode(av.VideoFrame.from_ndarray(shifted, format="rgb24")))
        for start in range(0, int(seconds * 16000), 1024):
            wave = 0.3 * np.sin(np.arange(start, start + 1024) / 16000 * 2 * np.pi * 440)
            frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(audio.encode(frame))
        container.mux(video.encode())
        container.mux(audio.encode())
    return str(path)


def memory(paths: list[str]) -> dict[str, float]:
    few, many = peak_mb(paths[:10]), peak_mb(paths[:10] * 10)
    with tempfile.TemporaryDirectory() as folder:
        # Long enough that buffers bounded by design (a window of frames) are full in both.
        short, long = (make_clip(Path(folder, f"{s}.mp4"), s) for s in (15, 150))
        short_mb, long_mb = peak_mb([short]), peak_mb([long])
    return {
        "peak_mb_10_clips": few,
        "peak_mb_100_clips": many,
        "peak_ratio_clips": many / few,
        "peak_mb_15_s": short_mb,
        "peak_mb_150_s": long_mb,
        "peak_ratio_length": long_mb / short_mb,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    processes = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        make_demo_set(Path(folder))
        paths = sorted(str(p) for p in Path(folder).rglob("*.mp4") if p.stat().st_size > 4096)
        paths = paths[: chosen.clips]
        figures: dict[str, Any] = memory(paths)
        import ray

        ray.init(address="local", log_to_driver=False, include_dashboard=False, logging_level=40)
        figures |= compare(extractor, rows_of(paths), processes=processes, rounds=chosen.rounds)
        ray.shutdown()
    figures |= {"clips": len(paths), "processes": processes, "machine": platform.machine()}
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    os.chdir(ROOT)
    main()

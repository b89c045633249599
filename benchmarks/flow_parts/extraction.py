"""The extraction of real clips, with our TV-L1 and with OpenCV's; one process, one thread."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.errors import MediaError
from actors.extract_settings import ExtractSettings
from actors.extraction import extract_clip
from actors.flow import CPUEngine, FlowEngine
from actors.flow.settings import SCHEDULES
from actors.storage import Storage
from actors.tracks import FLOW, FRAMES, TRACKS
from benchmarks.flow_parts.contenders import opencv_tvl1, set_opencv_threads
from benchmarks.flow_parts.timing import in_turn, ratio, say


class OpenCVEngine:
    """OpenCV's TV-L1 with its own parameters, median filter off, as an engine of ours."""

    def __init__(self) -> None:
        self._find = opencv_tvl1(SCHEDULES["exact"])

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return np.stack([self._find(frames[i : i + 2]) for i in range(len(frames) - 1)])


def measure_extraction(videos: Sequence[Path], seconds: float, repeats: int) -> dict[str, Any]:
    """Clips per second from file to artifact, everything in it: decoding, sound, JPEG, writing.

    Args:
        videos: files.
        seconds: taken of each; OpenCV takes seconds for a pair.
        repeats: rounds.
    """
    set_opencv_threads(1)
    torch.set_num_threads(1)
    settings = ExtractSettings(max_seconds=seconds)
    engines: dict[str, FlowEngine] = {
        **{name: CPUEngine(schedule) for name, schedule in SCHEDULES.items()},
        "opencv": OpenCVEngine(),
    }
    say(f"extraction: {len(videos)} clips")
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        worked = [extract(videos, settings, engines["fast"], storage) for _ in range(2)][1]
        jobs = {
            name: partial(extract, videos, settings, engine, storage)
            for name, engine in engines.items()
        }
        times = in_turn(jobs, repeats)
    out: dict[str, Any] = {"clips": len(videos), "pairs": worked, "seconds_of_each": seconds}
    for name, taken in times.items():
        out[f"{name}_clips_per_s"] = len(videos) / statistics.median(taken)
    for name in SCHEDULES:
        out[f"{name}_ratio_to_opencv"] = ratio(times["opencv"], times[name])
    return out


def extract(
    videos: Sequence[Path], settings: ExtractSettings, engine: FlowEngine, storage: Storage
) -> int:
    """The plain loop over files; returns how many pairs there were."""
    from actors.artifact import artifact_name, pieces

    pairs = 0
    for video in videos:
        clip = extract_clip(str(video), settings=settings, tracks=TRACKS, flow=engine)
        storage.write_pieces(artifact_name(video.name), pieces(clip))
        pairs += clip.metadata["n_flow"]
    return pairs


def usable(videos: Sequence[Path], count: int) -> list[Path]:
    """The first videos that an artifact can be made of."""
    found: list[Path] = []
    for video in videos:
        try:
            clip = extract_clip(
                str(video),
                settings=ExtractSettings(max_seconds=0.3),
                tracks=(FRAMES, FLOW),
                flow=lambda gray: np.zeros((len(gray) - 1, 2, *gray.shape[1:]), np.float32),
            )
        except MediaError:
            continue
        if clip.metadata["n_flow"] > 0:
            found.append(video)
        if len(found) == count:
            break
    return found

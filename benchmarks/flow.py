#!/usr/bin/env python3
"""Optical flow: TV-L1 on the CPU and the GPU against OpenCV's and others, errors beside speed.

    python benchmarks/flow.py [--data FOLDER] [--middlebury FOLDER] [--markdown FILE]

Measured on 320x240 pairs cut from the videos below FOLDER; without it from the demo's videos,
enlarged. What is compared runs in turn (A B A B ...) on the same pairs and threads, on one thread
where none is named; rates and ratios are medians over the rounds. OpenCV is given whichever is the
faster, threads inside a pair or pairs side by side. A package that is not there is left out.
Progress goes to stderr; the figures are one JSON object on the last line of stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402

from benchmarks.flow_parts.clips import demo_clips, real_clips, videos_below  # noqa: E402
from benchmarks.flow_parts.contenders import importable  # noqa: E402
from benchmarks.flow_parts.tables import markdown  # noqa: E402
from benchmarks.flow_parts.timing import say  # noqa: E402

SECTIONS = {
    "cpu": ("numba", "cv2"),
    "middlebury": ("numba",),
    "methods": ("numba",),
    "extraction": ("numba", "cv2", "av"),
    "cuda": ("triton",),
}
"""Sections, and the packages that each can't do without."""
CLIP_LENGTH = 33
"""Frames of a clip where OpenCV is not measured on them."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with videos of 320x240 pixels or more")
    parser.add_argument("--middlebury", type=Path, help="folder with other-data, other-gt-flow")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="some of them, by commas")
    parser.add_argument("--clips", type=int, default=3, help="videos to cut pairs from")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of each that OpenCV gets")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--markdown", type=Path, help="file for the figures as tables")
    chosen = parser.parse_args()
    unknown = [s for s in chosen.sections.split(",") if s not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    if min(chosen.clips, chosen.pairs, chosen.repeats) < 1 or chosen.pairs >= CLIP_LENGTH:
        parser.error(f"clips, repeats and pairs are at least 1, pairs at most {CLIP_LENGTH - 1}")
    return chosen


def sections_of(chosen: argparse.Namespace) -> list[str]:
    """Those that can be done here; why others can't is said."""
    found = []
    for name in chosen.sections.split(","):
        missing = [package for package in SECTIONS[name] if not importable(package)]
        if name == "middlebury" and chosen.middlebury is None:
            say("middlebury: left out; name the folder with --middlebury")
        elif missing:
            say(f"{name}: left out; {' and '.join(missing)} can't be imported")
        elif name == "cuda" and not torch.cuda.is_available():
            say("cuda: left out; there is no GPU")
        else:
            found.append(name)
    return found


def clips_of(chosen: argparse.Namespace) -> list[Any] | None:
    """What is measured on; None where no video can be read."""
    if not importable("av"):
        return None
    if chosen.data is None:
        return demo_clips(chosen.clips, CLIP_LENGTH)
    return real_clips(chosen.data, chosen.clips, CLIP_LENGTH)


def extraction(chosen: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.flow_parts.extraction import measure_extraction, usable
    from pipelines.data.demo_videos import DemoSettings, make_demo_set

    # OpenCV needs seconds for a pair: some ten of each clip are enough, and two rounds.
    rounds = min(chosen.repeats, 2)
    if chosen.data is not None:
        return measure_extraction(usable(videos_below(chosen.data), 3), 0.35, rounds)
    settings = DemoSettings(train=1, val=0, test=0, broken=0, silent=0, soundless=0)
    with tempfile.TemporaryDirectory() as folder:
        make_demo_set(Path(folder), settings=settings)
        return measure_extraction(videos_below(Path(folder))[:4], 2.0, rounds)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    sections = sections_of(chosen)
    clips = clips_of(chosen)
    figures: dict[str, Any] = {}
    if "cpu" in sections and clips:
        from benchmarks.flow_parts.cpu import measure_cpu

        threads = (1, 2) if (os.cpu_count() or 1) > 1 else (1,)
        figures["cpu"] = measure_cpu(clips, chosen.pairs, threads, chosen.repeats)
    if "middlebury" in sections:
        from benchmarks.flow_parts.accuracy import measure_middlebury

        figures["middlebury"] = measure_middlebury(chosen.middlebury)
    if "methods" in sections and clips:
        from benchmarks.flow_parts.accuracy import measure_methods

        figures["methods_pairs_per_s"] = measure_methods(clips, chosen.repeats)
    if "extraction" in sections:
        figures["extraction"] = extraction(chosen)
    if "cuda" in sections:
        from benchmarks.flow_parts.gpu import measure_cuda

        figures["cuda"] = measure_cuda(clips, chosen.repeats)
    return figures


def about(chosen: argparse.Namespace) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "data": "real clips" if chosen.data else "demo videos",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
        "repeats": chosen.repeats,
    }


def rounded(value: Any) -> Any:
    """Four significant digits everywhere."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    chosen = parse()
    figures = rounded(about(chosen) | measure(chosen))
    if chosen.markdown is not None:
        chosen.markdown.write_text(markdown(figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How long the training loop waits for its input on cached artifacts.

    python benchmarks/train.py [--steps 60]

Fits each stream's network of the demo preset on the demo's artifacts, in this process, with the
threads that a stream has in the job. A step is waiting plus computing. Figures: one JSON object on
the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402, I001
from actors.artifact import artifact_name  # noqa: E402
from actors.errors import MediaError  # noqa: E402
from actors.extraction import ClipExtractor  # noqa: E402
from actors.storage import Storage  # noqa: E402
from pipelines.data import Manifest, SplitSettings, read_dataset  # noqa: E402
from pipelines.data.demo_videos import make_demo_set  # noqa: E402
from pipelines.cli.settings import Settings, parse_settings  # noqa: E402
from trainers.fit.examples import Example  # noqa: E402
from trainers.fit.loop import fit  # noqa: E402
from trainers.encoders.task import EncoderTask  # noqa: E402


def extract_examples(
    manifest: Manifest, settings: Settings, output: Storage
) -> dict[str, list[Example]]:
    """Stream -> training clips that have it, extracted one after another."""
    extractor = ClipExtractor(settings.extract, settings.tracks, output)
    examples: dict[str, list[Example]] = {stream: [] for stream in settings.streams}
    for video in manifest.split("train"):
        name = artifact_name(video.id)
        try:
            facts = extractor({"id": video.id, "path": video.path, "name": name})
        except MediaError:
            continue  # broken on purpose
        for stream, chosen in settings.streams.items():
            if chosen.track not in facts["absent"]:
                targets = manifest.targets(video)
                examples[stream].append(Example(video.id, output.path(name), targets, "train"))
    return examples


def measure(stream: str, examples: list[Example], settings: Settings, steps: int) -> dict[str, Any]:
    """Milliseconds per step, and the share that is waiting, after a warm-up."""
    chosen = settings.streams[stream]
    optimizer = replace(chosen.fit, max_steps=steps, evaluate_every=10 * steps)
    task = EncoderTask(stream, chosen, examples, n_classes=16, multi_label=False, seed=0)
    fit(task, replace(optimizer, max_steps=5), seed=0)
    result = fit(task, optimizer, seed=0)
    share = result.waited_s / result.step_s
    return {"ms_per_step": 1000 * result.step_s / steps, "waiting_share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    settings = parse_settings("", ["--preset", "demo"])
    with tempfile.TemporaryDirectory() as folder:
        table = make_demo_set(Path(folder, "videos"))
        manifest = read_dataset(table, "csv", splits=SplitSettings(), seed=0)
        examples = extract_examples(manifest, settings, Storage(Path(folder, "artifacts")))
        figures: dict[str, Any] = {
            stream: measure(stream, examples[stream], settings, steps) for stream in examples
        }
    figures["largest_waiting_share"] = max(figures[s]["waiting_share"] for s in examples)
    figures |= {"steps": steps, "cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

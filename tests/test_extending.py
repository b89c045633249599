"""What docs/extending.md shows works: its files are these examples, and a job runs them all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.demo_videos import DemoSettings, make_demo_set

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

CONFIG = """
system: examples.two_streams:two_streams
streams:
  differences: &small
    track: frames
    samples: examples.frame_differences:frame_differences
    encoder: examples.tiny_encoder:tiny_encoder
    weights: none
    fit: {name: adam, lr: 0.002, batch_size: 16, max_steps: 12, evaluate_every: 6}
    embed: {max_steps: 5, test_samples: 5}
    sequence:
      model: examples.mean_and_max:mean_and_max
      fit: {name: adam, lr: 0.01, batch_size: 16, max_steps: 12, evaluate_every: 6}
  still: {<<: *small, samples: auto, encoder: "timm:test_vit", frozen: true}
fusion: {model: examples.nearest_mean:nearest_mean}
extract: {short_side: 48, codec: raw}
resources: {fit_workers: 0}
registry: {name: extended}
max_rejected_share: 0.2
"""


def run(job: str, *arguments: str) -> str:
    """What a job prints, run in the repository's root as a user would."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / job), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_a_system_of_files_outside_the_packages_trains_reports_registers_and_predicts(
    tmp_path: Path,
) -> None:
    few = DemoSettings(train=2, val=1, test=1, broken=1, silent=1, soundless=1)
    table = make_demo_set(tmp_path / "videos", settings=few)
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG)
    place = ["--storage", str(tmp_path / "storage")]
    report = tmp_path / "report.json"
    data = ["--data", str(table), "--format", "csv", "--report", str(report)]
    said = run("full.py", "--config", str(config), *data, *place)
    assert "extended version 1" in said
    figures = json.loads(report.read_text())
    assert set(figures["methods"]) >= {"differences", "still", "fusion", "ensemble", "refined"}
    assert {"differences.fit", "still.sequence", "fusion"} <= set(figures["stages"])
    assert "still.fit" not in figures["stages"]
    page = next((tmp_path / "storage" / "runs").glob("*/report.html")).read_text()
    assert "Two streams" in page and "differences" in page
    clip = str(next((tmp_path / "videos").rglob("*.mp4")))
    output = tmp_path / "predictions.json"
    run("predict.py", clip, "--model", "models:/extended/1", "--output", str(output), *place)
    (row,) = json.loads(output.read_text())
    assert row["label"] and not row["error"]
    assert row["share_differences"] + row["share_still"] == pytest.approx(1)


def test_each_example_is_one_short_file() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES}
    assert len(lengths) == 5
    assert max(lengths.values()) <= 40, lengths


def test_the_page_shows_the_examples_as_they_are() -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert sorted(blocks) == sorted(path.read_text() for path in EXAMPLES)

"""kill -9 of the driver and of workers in every stage: the result of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from pipelines.cli.launch import ROOT
from pipelines.data.demo_videos import DemoSettings, make_demo_set

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

# Two steps between checkpoints, and enough of them that each stage can be caught at work.
SMALL = """
preset: demo
streams: spatial,audio
embedding: {max_steps: 6, test_samples: 6}
spatial:
  fit: {max_steps: 40, evaluate_every: 10, checkpoint_every: 2}
  sequence: {fit: {max_steps: 60, evaluate_every: 20, checkpoint_every: 2}}
audio: {fit: {max_steps: 40, evaluate_every: 10, checkpoint_every: 2}}
search: {trials: 6, folds: 2, concurrent: 1}
max_rejected_share: 0.2
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = DemoSettings(train=2, val=1, test=1, broken=1, silent=1, soundless=1)
    return make_demo_set(tmp_path_factory.mktemp("videos"), settings=few)


def command(videos: Path, storage: Path) -> list[str]:
    storage.mkdir(parents=True, exist_ok=True)
    config = storage / "small.yaml"
    config.write_text(SMALL)
    return [
        *(sys.executable, str(ROOT / "pipelines" / "full.py"), "--config", str(config)),
        *("--data", str(videos), "--format", "csv", "--storage", str(storage)),
        *("--report", str(storage / "report.json")),
    ]


def finish(videos: Path, storage: Path) -> dict:
    done = subprocess.run(
        command(videos, storage), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((storage / "report.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    storage = tmp_path_factory.mktemp("undisturbed")
    return storage, finish(videos, storage)


def stage(storage: Path, name: str) -> Path | None:
    return next(iter(sorted((storage / "stages").glob(f"{name}-*"))), None)


def has(storage: Path, name: str, file: str) -> bool:
    folder = stage(storage, name)
    return folder is not None and any(folder.glob(file))


AT_WORK: dict[str, Callable[[Path], bool]] = {
    "extract": lambda s: len(list(s.glob("artifacts/*/*.safetensors"))) >= 5,
    "cnn": lambda s: has(s, "spatial_cnn", "checkpoint.pt"),
    "embed": lambda s: has(s, "spatial_embed", "*.safetensors"),
    "lstm": lambda s: has(s, "spatial_lstm", "checkpoint.pt"),
    "search": lambda s: has(s, "search", "tune/*/result.json"),
    "evaluate": lambda s: has(s, "fusion", "done.json"),
}
"""Stage -> whether it has begun and left something."""


def reported(storage: Path) -> bool:
    return (storage / "report.json").exists()


def wait_until(begun: Callable[[Path], bool], storage: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not begun(storage):
        said = (storage / "log").read_text()
        assert process.poll() is None, f"ended before the stage was seen at work:\n{said}"
        assert time.monotonic() < deadline, f"the stage was never seen at work:\n{said}"
        time.sleep(0.02)


def start(videos: Path, storage: Path) -> subprocess.Popen:
    """The job in a process of its own; what it prints is kept in ``log`` for failing tests."""
    arguments = command(videos, storage)
    with (storage / "log").open("a") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)


def kill_driver(process: subprocess.Popen) -> None:
    """kill -9 of the driver alone; Ray and its workers must go by themselves."""
    children = psutil.Process(process.pid).children(recursive=True)
    # Ray's agents outlive their node for a while, waiting for it; they hold nothing.
    working = [child for child in children if "Agent" not in child.name()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(working, timeout=60)
    alive = [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert not alive, [child.name() for child in alive]


def modified(storage: Path) -> dict[str, int]:
    """Finished artifacts and when they were written."""
    files = [*storage.glob("artifacts/*/*.safetensors"), *storage.glob("stages/*/*.safetensors")]
    done = [f for f in files if f.parent.parent.name == "artifacts" or _finished(f.parent)]
    return {str(file.relative_to(storage)): file.stat().st_mtime_ns for file in done}


def _finished(folder: Path) -> bool:
    return (folder / "done.json").exists()


def assert_same(one: Path, other: Path, reports: tuple[dict, dict]) -> None:
    """Networks, embeddings and scores bit for bit; the report's figures."""
    assert reports[0]["methods"] == reports[1]["methods"]
    for name in ("spatial_cnn", "audio_cnn", "spatial_lstm", "fusion", "evaluate"):
        first, second = stage(one, name), stage(other, name)
        assert first is not None and second is not None and first.name == second.name
        for file in first.glob("*.safetensors"):
            expected, found = load_file(file), load_file(second / file.name)
            assert all((expected[key] == found[key]).all() for key in expected), file


WORKERS = ("ray::MapWorker", "ray::RayTrainWorker", "ray::ImplicitFunc")
"""Titles of processes in which Ray Data, Ray Train and Ray Tune do their work."""


def a_worker(process: subprocess.Popen) -> psutil.Process | None:
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if " ".join(child.cmdline()).startswith(WORKERS):
                return child
        except psutil.Error:
            continue  # it has ended since
    return None


def kill_a_worker(process: subprocess.Popen, over: Callable[[Path], bool], storage: Path) -> bool:
    """kill -9 of one worker as soon as there is one; False if the next stage began before."""
    while not over(storage):
        worker = a_worker(process)
        if worker is not None:
            os.kill(worker.pid, signal.SIGKILL)
            return True
        assert process.poll() is None, (storage / "log").read_text()
        time.sleep(0.02)
    return False


def test_kill_9_of_the_driver_and_of_a_worker_in_each_stage(
    videos: Path, undisturbed: tuple[Path, dict], tmp_path: Path
) -> None:
    """Seven jobs: each but the first loses a worker, each but the last is killed a stage later."""
    before: dict[str, int] = {}
    lost = []
    process = start(videos, tmp_path)
    for name, (begun, over) in zip(AT_WORK, pairwise([*AT_WORK.values(), reported]), strict=True):
        wait_until(begun, tmp_path, process)
        kill_driver(process)
        after = modified(tmp_path)
        # Nothing that was finished has been done again since the kill before.
        assert {file: after.get(file) for file in before} == before
        before = after
        process = start(videos, tmp_path)
        if kill_a_worker(process, over, tmp_path):
            lost.append(name)
    assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    assert {"extract", "cnn", "embed", "lstm", "search"} <= set(lost)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rejected"] == undisturbed[1]["rejected"]
    assert_same(undisturbed[0], tmp_path, (undisturbed[1], report))


def test_stopping_ends_the_run_and_the_next_goes_on(videos: Path, tmp_path: Path) -> None:
    process = start(videos, tmp_path)
    wait_until(AT_WORK["extract"], tmp_path, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert len(list(tmp_path.glob("artifacts/*/*.safetensors"))) >= 5

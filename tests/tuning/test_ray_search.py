"""The search on a real local Ray: its result, its folder, and going on after a kill."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.errors import UserError
from actors.storage import Storage
from trainers.settings import FusionSettings
from trainers.table import Table
from trainers.targets import Targets
from tuning.ray_search import search
from tuning.settings import SearchSettings

pytestmark = pytest.mark.ray

FUSION = FusionSettings(hidden=16, batch_size=32, max_epochs=30, patience=30)
SETTINGS = SearchSettings(trials=4, folds=2, grace_epochs=10, concurrent=1)


@pytest.fixture(scope="module")
def session():
    # One of its own, whatever other Ray runs on this machine.
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        ignore_reinit_error=True,
        log_to_driver=False,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def drawn(n=60, classes=3, noise=3):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    centers = 3 * rng.normal(size=(classes, 12))
    features = (centers[labels] + noise * rng.normal(size=(n, 12))).astype(np.float32)
    return Table.of(
        {"spatial": features},
        targets=Targets.from_classes(labels, classes),
        groups=[f"g{i // 4}" for i in range(n)],
    )


def run(storage, settings=SETTINGS, *, fusion=FUSION, noise=3, **changes):
    return search(drawn(noise=noise), settings, fusion=fusion, storage=storage, seed=0, **changes)


@pytest.fixture(scope="module")
def finished(session, tmp_path_factory):
    """(storage, result, progress) of one undisturbed search."""
    storage = Storage(tmp_path_factory.mktemp("search"))
    told = []
    result = run(storage, progress=lambda *args: told.append(args))
    return storage, result, told


def test_finds_the_best_point(finished):
    _, result, told = finished
    assert [row["trial"] for row in result.trials] == [f"point_{i:03d}" for i in range(4)]
    assert (result.trials[0]["lambda2"], result.trials[0]["lambda3"]) == (0, 0)
    assert all(row["lambda2"] or row["lambda3"] for row in result.trials[1:])
    assert {row["state"] for row in result.trials} <= {"finished", "stopped"}
    assert result.trials[0]["state"] == "finished"
    best = max(result.trials, key=lambda row: (row["score"], -row["held_out_loss"]))
    assert (best["lambda2"], best["lambda3"]) == (result.lambda2, result.lambda3)
    assert result.score == best["score"] > 0.8
    assert [done for done, _, _ in told] == [1, 2, 3, 4]
    assert told[-1][1] == 4 and told[-1][2]["score"] == result.score
    curve = result.curves["point_000"]
    assert [row["epoch"] for row in curve][:2] == [5, 10]
    assert curve[-1]["best_score"] == result.trials[0]["score"]


def test_keep_loss_compares_points_by_their_squared_error(session, tmp_path):
    told = []
    result = run(
        Storage(tmp_path),
        fusion=dataclasses.replace(FUSION, keep="loss"),
        noise=5,
        progress=lambda *args: told.append(args),
    )
    best = min(result.trials, key=lambda row: row["held_out_loss"])
    assert best["score"] < max(row["score"] for row in result.trials)
    assert (best["lambda2"], best["lambda3"]) == (result.lambda2, result.lambda3)
    assert result.score == best["score"] == told[-1][2]["score"]
    assert told[-1][2]["lambda2"] == best["lambda2"]


def test_a_search_without_trials_is_refused(tmp_path):
    with pytest.raises(ValueError, match="search.trials is 0"):
        run(Storage(tmp_path), SearchSettings(trials=0))
    assert not list(tmp_path.iterdir())


def test_leaves_curves_for_tensorboard(finished):
    storage, _, _ = finished
    folders = [path.parent for path in Path(storage.path()).rglob("events.out.tfevents.*")]
    assert len(folders) == 4
    assert any(path.name == "point_000_lambda2=0.0e+00_lambda3=0.0e+00" for path in folders)


def test_a_finished_search_is_returned_at_once(finished):
    storage, result, _ = finished
    told = []
    assert run(storage, progress=lambda *args: told.append(args)) == result
    assert not told  # nothing was run
    with pytest.raises(UserError, match="holds a search already"):
        run(storage, resume=False)
    with pytest.raises(UserError, match="another search.trials;"):
        run(storage, SearchSettings(trials=5, folds=2, grace_epochs=10))


def test_more_cpus_than_there_are(session, tmp_path):
    settings = SearchSettings(trials=1, folds=2, cpus_per_trial=64)
    with pytest.raises(UserError, match="64 CPUs and the cluster has 2"):
        run(Storage(tmp_path), settings)


def test_goes_on_after_kill_9_and_ends_as_if_undisturbed(session, finished, tmp_path):
    _, undisturbed, _ = finished
    driver = f"""
import os, ray, signal, sys, time
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
from test_ray_search import run, Storage

def progress(done, *rest):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1.1)  # then the snapshot after this point is not put off to a later one

ray.init(address={session!r}, log_to_driver=False)
run(Storage({str(tmp_path)!r}), progress=progress)
"""
    process = subprocess.run([sys.executable, "-c", driver], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    folder = tmp_path / "fusion-search"
    before = {path: path.read_text() for path in folder.glob("point_00[01]*/result.json")}
    assert len(before) == 2

    result = run(Storage(tmp_path))
    for path, text in before.items():
        assert path.read_text() == text, "a finished point ran again"
    for ours, theirs in zip(result.trials, undisturbed.trials, strict=True):
        for name in ("trial", "lambda2", "lambda3", "score", "held_out_loss", "state"):
            assert ours[name] == theirs[name]
    assert (result.lambda2, result.lambda3) == (undisturbed.lambda2, undisturbed.lambda3)
    assert json.loads((folder / "search.json").read_text())["score"] == result.score

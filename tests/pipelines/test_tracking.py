"""Runs in MLflow: resumed by fingerprint, closed by how they ended, refused early and quietly."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from mlflow.artifacts import load_text

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.model_settings import TrackingSettings
from pipelines.tracking.provenance import flatten, git_commit
from pipelines.tracking.runs import Tracker, tracking_uri, using_uri
from trainers.streams.settings import StreamSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Storage:
    return Storage(tmp_path_factory.mktemp("storage with a space"))


@pytest.fixture(scope="module")
def tracker(storage) -> Tracker:
    made = Tracker(TrackingSettings(), storage)
    made.check()
    return made


def state(tracker, run_id):
    return tracker.client.get_run(run_id)


def test_the_database_lies_under_the_storage_and_nothing_in_the_working_folder(
    storage, tracker, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with tracker.parent("here", "f0") as run:
        run.log_text("note.txt", "hello")
        place = state(tracker, run.id).info.artifact_uri
        with tracker.using():
            assert load_text(f"{place}/note.txt") == "hello"
    assert storage.exists("mlflow/mlflow.db")
    assert place.startswith((storage.local("mlflow/artifacts") or Path()).as_uri())
    assert list(tmp_path.iterdir()) == []


def test_the_same_fingerprint_goes_on_in_the_same_run(tracker):
    with pytest.raises(ZeroDivisionError), tracker.parent("job", "f1") as first:
        with tracker.child(first, "spatial 'cnn'") as child:
            child.log_curve([{"step": step, "loss": 1 / (step + 1)} for step in range(5)])
        raise ZeroDivisionError
    assert state(tracker, first.id).info.status == "FAILED"
    assert not first.finished
    with tracker.parent("job", "f1") as again:
        assert again.id == first.id
        assert state(tracker, again.id).info.status == "RUNNING"
        with tracker.child(again, "spatial 'cnn'") as same:
            assert same.id == child.id
            same.log_curve([{"step": step, "loss": 1 / (step + 1)} for step in range(8)])
        with tracker.child(again, "motion cnn") as other:
            assert other.id != child.id
    assert state(tracker, first.id).info.status == "FINISHED"
    assert first.finished
    history = tracker.client.get_metric_history(child.id, "loss")
    assert [metric.step for metric in history] == list(range(8))
    with tracker.parent("job", "another") as different:
        assert different.id != first.id


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stopped_job_is_killed_not_failed(tracker, stop):
    with pytest.raises(stop), tracker.parent("job", f"f2{stop.__name__}") as run:
        raise stop
    assert state(tracker, run.id).info.status == "KILLED"


def test_settings_become_flat_parameters_and_changed_ones_tags(tracker):
    with tracker.parent("job", "f3") as run:
        run.log_params({"spatial": StreamSettings(), "long": "x" * 9000, "workers": 1})
        run.log_params({"spatial": StreamSettings(), "long": "x" * 9000, "workers": 2})
    data = state(tracker, run.id).data
    assert data.params["spatial.fit.lr"] == "0.001"
    assert data.params["workers"] == "1"
    assert data.tags["resumed_with.workers"] == "2"
    assert [tag for tag in data.tags if tag.startswith("resumed_with")] == ["resumed_with.workers"]
    assert len(data.params["long"]) == 6000


def test_more_numbers_than_a_call_takes(tracker):
    with tracker.parent("job", "f4") as run:
        run.log_curve([{"step": i, "score": float(i), "note": "text"} for i in range(2500)])
        run.log_params({f"p{i}": i for i in range(250)})
        run.log_metrics({"ap/Playing (flute)": 0.5, "nothing": None, "bad": float("nan")})
    data = state(tracker, run.id).data
    assert len(tracker.client.get_metric_history(run.id, "score")) == 2500
    assert len(data.params) == 250
    assert data.metrics["ap/Playing _flute_"] == 0.5
    assert data.metrics["bad"] != data.metrics["bad"]
    assert not {"nothing", "note"} & set(data.metrics)


def test_tables_and_data(tracker):
    table = pa.table({"id": ["a", "b"], "score": [0.5, None]})
    with tracker.parent("job", "f5") as run:
        for _ in range(2):
            run.log_table("rejected", table)
        run.log_dataset(name="clips", fingerprint="e" * 64, source="/clips", profile={"train": 3})
    found = state(tracker, run.id)
    names = {artifact.path for artifact in tracker.client.list_artifacts(run.id, "tables")}
    assert names == {"tables/rejected.json"}
    content = json.loads(load_text(f"{found.info.artifact_uri}/tables/rejected.json"))
    assert content == {"columns": ["id", "score"], "data": [["a", 0.5], ["b", None]]}
    assert found.data.tags["mlflow.loggedArtifacts"].count("rejected") == 1
    dataset = found.inputs.dataset_inputs[0].dataset
    assert dataset.name == "clips" and dataset.digest == "e" * 36
    assert json.loads(dataset.profile) == {"fingerprint": "e" * 64, "train": 3}


def test_versions_and_commit_are_tags(tracker):
    with tracker.parent("job", "f6") as run:
        pass
    tags = state(tracker, run.id).data.tags
    assert tags["version.torch"] and tags["version.ray"] and tags["version.python"]
    assert tags.get("mlflow.source.git.commit") == git_commit(ROOT)


def test_no_commit_without_a_checkout(tmp_path):
    assert git_commit(tmp_path) is None


def test_the_machine_is_recorded_when_asked_for(storage, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracker = Tracker(TrackingSettings(system_metrics=True), storage)
    with tracker.parent("job", "f7") as run:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not state(tracker, run.id).data.metrics:
            time.sleep(0.1)
    assert "system/cpu_utilization_percentage" in state(tracker, run.id).data.metrics


def test_a_server_that_is_not_there(storage):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(UserError) as caught:
            Tracker(TrackingSettings(uri=uri), storage).check()
    assert time.monotonic() - begun < 5
    assert f"MLflow at {uri} cannot be used: the server does not answer" in str(caught.value)
    assert "start that server, correct MLFLOW_TRACKING_URI, or unset it" in str(caught.value)


def test_a_server_that_never_answers(storage, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
        begun = time.monotonic()
        with pytest.raises(UserError, match="does not answer within 1 s"):
            Tracker(TrackingSettings(timeout_s=1), storage).check()
    assert time.monotonic() - begun < 8
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


def test_a_place_that_mlflow_does_not_know(storage):
    with pytest.raises(UserError, match="MLflow at nonsense:x cannot be used"):
        Tracker(TrackingSettings(uri="nonsense:x"), storage).check()


def test_a_storage_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="check that the storage is writable"):
        Tracker(TrackingSettings(), Storage(tmp_path / "file")).check()


def test_reading_makes_no_database(tmp_path):
    with pytest.raises(UserError, match="no job has run there"):
        Tracker(TrackingSettings(), Storage(tmp_path / "new")).reach()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_moved_storage_is_noticed(tmp_path):
    Tracker(TrackingSettings(), Storage(tmp_path / "old")).check()
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(UserError, match="the storage was moved or copied"):
        Tracker(TrackingSettings(), Storage(tmp_path / "new")).check()
    Tracker(TrackingSettings(experiment="fresh"), Storage(tmp_path / "new")).check()


def test_a_deleted_experiment_is_named(tmp_path):
    tracker = Tracker(TrackingSettings(), Storage(tmp_path))
    tracker.client.delete_experiment(tracker.experiment)
    with pytest.raises(UserError, match=r"'multiclue' was deleted; `mlflow experiments restore"):
        Tracker(TrackingSettings(), Storage(tmp_path)).check()


def test_where_runs_go(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    assert tracking_uri(TrackingSettings(), storage) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri(TrackingSettings(), storage) == "http://tracking:5000"
    assert tracking_uri(TrackingSettings(uri="http://other"), storage) == "http://other"


def test_a_remote_storage_needs_a_server():
    storage = Storage("s3://bucket/runs?region=eu-west-1")  # opened, never spoken to
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI to an MLflow server"):
        tracking_uri(TrackingSettings(), storage)


def test_the_environment_is_put_back(monkeypatch):
    with using_uri("sqlite:////elsewhere.db"):
        assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:////elsewhere.db"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    with pytest.raises(ValueError), using_uri("sqlite:////elsewhere.db"):
        raise ValueError
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracking:5000"


def test_nested_settings_are_laid_flat():
    flat = flatten({"a": {"b": {"c": 1}, "d": None}, "s": StreamSettings()})
    assert flat["a.b.c"] == 1 and flat["a.d"] is None
    assert flat["s.encoder"] == "torchvision:vgg19"


@pytest.mark.slow
def test_nothing_is_printed(tmp_path):
    code = (
        "import sys; from actors.storage import Storage; from pipelines.tracking.runs import *;"
        "t = Tracker(TrackingSettings(), Storage(sys.argv[1])); t.check();\n"
        "with t.parent('a', 'b') as run:\n"
        "    run.log_text('x.txt', 'y')\n"
        "    with t.child(run, 'c') as child: child.log_metrics({'loss': 1.0})\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")},
    )
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "Warning" in line or "INFO" in line]
    assert [line for line in lines if "DeprecationWarning" not in line] == []

"""The registered model: what is kept with it, and that it works away from the checkout."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import safetensors.numpy
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
from small_hybrid import CLASSES, make_hybrid, write_clip

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.model_settings import RegistrySettings, TrackingSettings
from pipelines.data import Video
from pipelines.tracking.registry import (
    REQUIREMENTS,
    Evaluation,
    download,
    find_version,
    register,
    requirements,
)
from pipelines.tracking.runs import Tracker
from trainers.model_files import load, save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Storage:
    return Storage(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def clip(storage) -> str:
    return str(write_clip(storage.local("clips/whole.mp4")))


@pytest.fixture(scope="module")
def evaluation(clip) -> Evaluation:
    videos = [
        Video("a", clip, ("boxing",), "test", "g1"),
        Video("b", clip, ("boxing",), "test", "g1"),
        Video("c", clip, ("waving",), "test", "g2"),
    ]
    metrics = {"score": 0.75, "accuracy": 0.75, "map": 0.5}
    return Evaluation(metrics, videos, multi_label=False)


@pytest.fixture(scope="module")
def registered(storage, evaluation):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracker = Tracker(TrackingSettings(), storage)
    save(make_hybrid(), storage.join("model"))
    settings = RegistrySettings()
    with tracker.parent("job", "one") as run:
        versions = [
            register(tracker, run, storage.join("model"), evaluation, settings, tags={"data": "d"})
            for _ in range(2)
        ]
    return tracker, run, versions


@pytest.fixture(scope="module")
def model(registered):
    tracker, _, _ = registered
    with tracker.using():
        return mlflow.pyfunc.load_model("models:/multiclue@challenger")


def test_a_repeated_registration_is_the_same_version(registered):
    tracker, _, versions = registered
    assert versions == ["1", "1"]
    assert len(tracker.client.search_model_versions("name = 'multiclue'")) == 1


def test_what_is_kept_with_a_version(registered, evaluation):
    tracker, run, _ = registered
    version = find_version(tracker.client, "multiclue", "challenger")
    assert version.run_id == run.id
    tags = version.tags
    assert float(tags["metric.accuracy"]) == 0.75 and float(tags["metric.score"]) == 0.75
    assert tags["measure"] == "accuracy" and tags["n_test"] == "3" and tags["data"] == "d"
    assert float(tags["chance"]) == pytest.approx(2 / 3)
    assert tags["test_manifest"] == evaluation.fingerprint
    with tracker.using():
        listed = json.loads(mlflow.artifacts.load_text(f"runs:/{run.id}/evaluation/test.json"))
    assert [video["labels"] for video in listed] == [["boxing"], ["boxing"], ["waving"]]
    assert find_version(tracker.client, "multiclue", "champion") is None
    assert find_version(tracker.client, "multiclue", "17") is None
    assert find_version(tracker.client, "other", "champion") is None


def test_the_fingerprint_of_the_test_videos(evaluation, tmp_path):
    def changed(**options) -> Evaluation:
        first = evaluation.videos[0].__class__(**{**vars(evaluation.videos[0]), **options})
        return Evaluation({}, [first, *evaluation.videos[1:]], multi_label=False)

    moved = tmp_path / "elsewhere.mp4"
    moved.write_bytes(Path(evaluation.videos[0].path).read_bytes())
    assert changed(path=str(moved)).fingerprint == evaluation.fingerprint
    assert changed(id="z").fingerprint != evaluation.fingerprint
    assert changed(labels=("waving",)).fingerprint != evaluation.fingerprint
    moved.write_bytes(b"shorter")
    assert changed(path=str(moved)).fingerprint != evaluation.fingerprint


def test_signature_and_example(model):
    signature = model.metadata.signature
    assert [spec.type.name for spec in signature.inputs.inputs] == ["string"]
    assert "share_motion" in signature.outputs.input_names()
    assert {param.name for param in signature.params.params} == {
        *("top_k", "embeddings", "device", "precision")
    }
    assert model.input_example == ["path/of/a/video.mp4"]


@pytest.mark.slow
def test_it_says_what_the_ensemble_says(model, clip):
    decision = make_hybrid().predict_clip(clip).decision
    row = model.predict([clip]).iloc[0]
    assert row["label"] == CLASSES[decision.probabilities.argmax()]
    assert row["probability"] == pytest.approx(decision.probabilities.max())
    for stream, share in decision.shares.items():
        assert row[f"share_{stream}"] == pytest.approx(share)
    assert len(row["labels"]) == 3 and row["embedding"] == [] and row["error"] == ""


def test_lists_tables_and_parameters(model, clip):
    missing = "nowhere/missing.mp4"
    table = model.predict(
        pd.DataFrame({"path": [missing, clip]}), params={"top_k": 2, "embeddings": True}
    )
    assert table["path"].tolist() == [missing, clip]
    assert table["error"][0].startswith("missing: ") and table["labels"][0] == []
    assert len(table["labels"][1]) == 2 and len(table["embedding"][1]) == 5
    with pytest.raises(ValueError, match="the column is called 'file'"):
        model.predict(pd.DataFrame({"file": [clip]}))
    with pytest.raises(MlflowException):
        model.predict([3.5])


@pytest.mark.parametrize(
    "request_body",
    [
        lambda path: {"inputs": [path], "params": {"top_k": 1}},
        lambda path: {
            "dataframe_split": {"columns": ["path"], "data": [[path]]},
            "params": {"top_k": 1},
        },
    ],
)
def test_it_answers_as_a_server_does(model, clip, request_body):
    answer = invocations(
        json.dumps(request_body(clip)), "application/json", model, model.metadata.get_input_schema()
    )
    assert answer.status == 200
    (row,) = json.loads(answer.response)["predictions"]
    assert len(row["labels"]) == 1 and row["streams"] == "spatial,motion,audio"


@pytest.mark.slow
def test_it_loads_away_from_the_checkout_without_pickles(registered, tmp_path):
    tracker, _, _ = registered
    clip = str(write_clip(tmp_path / "sound.mp4", pictures=False))
    code = (
        "import sys, mlflow;"
        "m = mlflow.pyfunc.load_model('models:/multiclue/1');"
        "print(m.predict(sys.argv[1:])['label'][0]);"
        "import trainers.predictor, actors.storage;"
        "print(trainers.predictor.__file__); print(actors.storage.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, clip],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": tracker.uri,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        },
    )
    label, *files = done.stdout.split()
    assert label in CLASSES
    assert all("/mlflow/artifacts/models/" in file for file in files)
    assert "Warning" not in done.stderr


def test_nothing_in_it_is_pickled(registered):
    tracker, _, _ = registered
    folder = download(tracker, "models:/multiclue@challenger").local()
    # Python and Numba leave byte-code and machine code beside what they load.
    found = [file for file in folder.parents[1].rglob("*") if "__pycache__" not in file.parts]
    files = [file for file in found if file.is_file()]
    assert any(file.name == "system.json" for file in files)
    assert {file.suffix for file in files} <= {
        ".py", ".typed", ".json", ".yaml", ".txt", ".safetensors", ""
    }  # fmt: skip
    # A safetensors file begins with the length of its header, which may look like a pickle's mark.
    tensors = [file for file in files if file.suffix == ".safetensors"]
    held = {file.name: safetensors.numpy.load(file.read_bytes()) for file in tensors}
    assert held["fusion.safetensors"] and held["spatial.embed.safetensors"]
    others = [file for file in files if file not in tensors]
    assert not [file for file in others if file.read_bytes().startswith(b"\x80")]
    assert load(folder).classes == CLASSES


@pytest.mark.slow
def test_the_requirements_are_what_the_code_imports():
    code = (
        "import sys, trainers.prediction;"
        "print(*[m.__file__ for n, m in sys.modules.items()"
        " if n.split('.')[0] in ('actors', 'trainers')], sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / "pipelines" / "tracking" / "model_code.py", *map(Path, done.stdout.split())]
    assert len(files) > 10
    imported = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    own = {"actors", "trainers", "timm"}  # timm only where an encoder is timm's
    assert imported - set(sys.stdlib_module_names) - own <= set(REQUIREMENTS)
    assert all("==" in line and "+" not in line and "/" not in line for line in requirements())


def test_a_model_that_version_0_1_0_registered_is_refused_with_what_to_do(tracker_of_old):
    folder = download(tracker_of_old, "models:/old/1")
    with pytest.raises(UserError, match=r"saved by version 0\.1\.0 .*train the model again"):
        load(folder)


@pytest.fixture
def tracker_of_old(registered, tmp_path):
    """With a model whose files lie where version 0.1.0 put them."""
    tracker, run, _ = registered
    place = tmp_path / "model" / "artifacts" / "hybrid"
    place.mkdir(parents=True)
    (place / "hybrid.json").write_text(json.dumps({"format": 1}))
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    tracker.client.create_registered_model("old")
    tracker.client.create_model_version("old", str(tmp_path / "model"), run.id)
    return tracker


def test_models_that_are_not_there(registered, tmp_path):
    tracker, _, _ = registered
    with pytest.raises(UserError, match=r"there is no model models:/multiclue@champion at sqlite"):
        download(tracker, "models:/multiclue@champion")
    with pytest.raises(UserError, match=r"there is no model models:/unknown/1"):
        download(tracker, "models:/unknown/1")
    with pytest.raises(UserError, match="holds no model"):
        register(tracker, None, Storage(tmp_path), None, RegistrySettings())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"name": "a/b"}, "must not have"), ({"margin": 1.5}, r"in \[0, 1\), got 1.5")],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        RegistrySettings(**options)

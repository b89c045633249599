"""The MLflow model registry: registers trained systems as versions, and finds them by alias."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.launch import ROOT
from pipelines.cli.model_settings import CHALLENGER, RegistrySettings
from pipelines.data import Video
from pipelines.tracking.runs import Run, Tracker
from pipelines.tracking.user_code import installed_packages, user_code
from trainers.model_files import FACTS, read_files

ARTIFACT = "system"
OLD_ARTIFACT = "hybrid"
"""Of models that version 0.1.0 registered."""
TEST_MANIFEST = "evaluation/test.json"
METRIC_TAG, TEST_TAG, WEIGHTS_TAG = "metric.", "test_manifest", "weights"

REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "torchaudio",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "numba",
    "av",
    "safetensors",
)
"""Packages that the model's code imports directly."""


@dataclass(frozen=True)
class Evaluation:
    """Measures of a model on the test videos, which decide a promotion.

    Args:
        metrics: of `trainers.metrics.measures.summary`; ``score`` is the main measure.
        videos: the test videos.
        multi_label: whether the main measure is mAP instead of accuracy.
    """

    metrics: Mapping[str, float]
    videos: Sequence[Video]
    multi_label: bool

    @property
    def measure(self) -> str:
        """Name of the main measure."""
        return "map" if self.multi_label else "accuracy"

    @property
    def fingerprint(self) -> str:
        """Changes with the test videos' ids, labels and sizes, but not with their location."""
        rows = sorted([v.id, sorted(v.labels), _size(v.path)] for v in self.videos)
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    @property
    def chance(self) -> float:
        """Score of always predicting the most frequent class (mAP: of random scores)."""
        labels = [label for video in self.videos for label in video.labels]
        counts = np.unique(labels, return_counts=True)[1] if labels else np.zeros(1)
        most = counts.mean() if self.multi_label else counts.max()
        return float(most / max(len(self.videos), 1))


def register(
    tracker: Tracker,
    run: Run,
    folder: Storage,
    evaluation: Evaluation,
    settings: RegistrySettings,
    *,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Registers a saved system as a new version, the ``challenger``.

    A repeated call for the same run and weights returns the existing version.

    Args:
        run: the run that trained it.
        folder: written by `trainers.model_files.save`.
        evaluation: on the test videos.
        tags: further tags of the version, such as the data set's name.

    Returns:
        The version's number, in MLflow's form.

    Raises:
        UserError: the folder holds no model.
    """
    files = read_files(folder)
    weights = digest(files)
    client = tracker.client
    version = _registered(client, settings.name, run.id, weights)
    if version is None:
        _log_test_manifest(run, evaluation)
        model = _log_model(tracker, run, files)
        facts = {
            WEIGHTS_TAG: weights,
            TEST_TAG: evaluation.fingerprint,
            "n_test": str(len(evaluation.videos)),
            "chance": repr(evaluation.chance),
            "measure": evaluation.measure,
            **{f"{METRIC_TAG}{name}": repr(float(v)) for name, v in evaluation.metrics.items()},
            **(tags or {}),
        }
        version = _create_version(client, settings.name, run, model, facts)
    client.set_registered_model_alias(settings.name, CHALLENGER, version)
    return version


def requirements(more: Iterable[str] = ()) -> list[str]:
    """The packages that the model needs, pinned to the versions it was trained with.

    Args:
        more: packages that it needs besides `REQUIREMENTS`.
    """
    # A build's local part ("+cpu") names a wheel that not every registry has.
    names = dict.fromkeys((*REQUIREMENTS, *more))
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


def signature(streams: Sequence[str]) -> ModelSignature:
    """The signature: a list of paths to one row per video."""
    text, number = DataType.string, DataType.double
    return ModelSignature(
        # Without a name, so that plain lists are accepted as well as tables.
        inputs=Schema([ColSpec(text)]),
        outputs=Schema(
            [
                ColSpec(text, "path"),
                ColSpec(text, "label"),
                ColSpec(number, "probability"),
                ColSpec(Array(text), "labels"),
                ColSpec(Array(number), "probabilities"),
                *(ColSpec(number, f"share_{stream}") for stream in streams),
                ColSpec(text, "streams"),
                ColSpec(Array(number), "embedding"),
                ColSpec(text, "error"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("top_k", DataType.integer, 3),
                ParamSpec("embeddings", DataType.boolean, False),
                ParamSpec("device", text, "auto"),
                ParamSpec("precision", text, ""),
            ]
        ),
    )


def find_version(client: MlflowClient, name: str, which: str) -> ModelVersion | None:
    """The version with a number or an alias; None if there is none."""
    try:
        if which.isdecimal():
            return client.get_model_version(name, which)
        return client.get_model_version_by_alias(name, which)
    except MlflowException as error:
        # SQLite stores report an unknown alias as an invalid parameter.
        if error.error_code in (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), "INVALID_PARAMETER_VALUE"):
            return None
        raise


def download(tracker: Tracker, uri: str) -> Storage:
    """The folder of a registered model, on this machine.

    Args:
        uri: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, another URI of MLflow's that holds
            a model logged by `register`, or a folder that `trainers.model_files.save` wrote.

    Raises:
        UserError: there is no such model.
    """
    if "://" not in uri and not uri.startswith(("models:", "runs:")):
        return Storage(uri)
    try:
        with tracker.using():
            folder = mlflow.artifacts.download_artifacts(artifact_uri=uri)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"there is no model {uri} at {tracker.uri}: {reason}; "
            "train one with pipelines/full.py, or give --storage or MLFLOW_TRACKING_URI"
        ) from error
    artifacts = Path(folder) / "artifacts"
    older = (artifacts / OLD_ARTIFACT).is_dir() and not (artifacts / ARTIFACT).exists()
    return Storage(artifacts / (OLD_ARTIFACT if older else ARTIFACT))


def _log_model(tracker: Tracker, run: Run, files: Mapping[str, bytes]) -> Any:
    record = json.loads(files[FACTS])
    with tempfile.TemporaryDirectory() as temporary, tracker.using():
        folder = Path(temporary) / ARTIFACT
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        logged = tracker.client.create_logged_model(
            tracker.experiment, name="multiclue", source_run_id=run.id
        )
        Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run.id,
            model_id=logged.model_id,
            python_model=str(ROOT / "pipelines" / "tracking" / "model_code.py"),
            artifacts={ARTIFACT: str(folder)},
            code_paths=[str(ROOT / "actors"), str(ROOT / "trainers"), *user_code(files)],
            signature=signature(list(record["streams"])),
            # The path does not exist, so that MLflow's trial prediction is immediate.
            input_example=["path/of/a/video.mp4"],
            pip_requirements=requirements(installed_packages(files)),
        )
    return tracker.client.get_logged_model(logged.model_id)


def _create_version(
    client: MlflowClient, name: str, run: Run, model: Any, tags: Mapping[str, str]
) -> str:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(
        name, model.artifact_location, run.id, tags=dict(tags), model_id=model.model_id
    ).version
    listed = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": listed})
    return str(version)


def _registered(client: MlflowClient, name: str, run_id: str, weights: str) -> str | None:
    for version in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if version.tags.get(WEIGHTS_TAG) == weights:
            return str(version.version)
    return None


def _log_test_manifest(run: Run, evaluation: Evaluation) -> None:
    rows = [{"path": v.path, "labels": list(v.labels)} for v in evaluation.videos]
    run.log_text(TEST_MANIFEST, json.dumps(rows))


def digest(files: Mapping[str, bytes]) -> str:
    """A digest of the contents of a model's files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()[:16]


def _size(path: str) -> int | None:
    file = Path(path)
    return file.stat().st_size if file.is_file() else None

"""MLflow in the driver: where runs are recorded, the parent run and its children.

Only the driver writes. It creates and migrates the database before any worker starts, because
concurrent migrations of a new SQLite file fail.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import sqlalchemy.exc
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.environment import use_mlflow_quietly
from pipelines.cli.model_settings import TrackingSettings
from pipelines.tracking.provenance import source_tags
from pipelines.tracking.run import Run, run_key

if TYPE_CHECKING:
    pass

FINGERPRINT_TAG = "multiclue.fingerprint"
PARENT_TAG = "mlflow.parentRunId"
CHILD_TAG = "multiclue.child"


_uri_lock = threading.RLock()


class Tracker:
    """Runs of one experiment, on a server or in an SQLite file of the storage.

    Raises:
        UserError: the storage is remote and no server is set.
    """

    def __init__(self, settings: TrackingSettings, storage: Storage) -> None:
        use_mlflow_quietly()
        self.settings = settings
        self.uri = tracking_uri(settings, storage)
        self._local = self.uri.startswith("sqlite:")
        artifacts = storage.local("mlflow/artifacts") if self._local else None
        self._artifacts = artifacts.as_uri() if artifacts else None
        self._experiment: str | None = None

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; the first use creates the database."""
        with self._refusals():
            if self._local:
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            return MlflowClient(tracking_uri=self.uri)

    def check(self) -> None:
        """Creates the database and the experiment if they do not exist.

        Raises:
            UserError: the server does not answer within `timeout_s`, or refuses; the database
                cannot be opened; the experiment was deleted or belongs to another storage.
        """
        with self._refusals(), _impatient(self.settings.timeout_s):
            self._experiment = self._make_experiment()

    def reach(self) -> None:
        """Checks that there is a database or a server to read from; creates nothing.

        Raises:
            UserError: there is no database, or the server does not answer.
        """
        if self._local and not Path(self.uri.removeprefix("sqlite:///")).exists():
            raise UserError(
                f"there is no MLflow database at {self.uri}: no job has run there; "
                "give the --storage of the training job, or set MLFLOW_TRACKING_URI"
            )
        with self._refusals(), _impatient(self.settings.timeout_s):
            self.client.search_experiments(max_results=1)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, OSError, sqlalchemy.exc.SQLAlchemyError) as error:
            reason = str(error).splitlines()[0][:300]
            if "Max retries exceeded" in reason or "timed out" in reason:
                reason = f"the server does not answer within {self.settings.timeout_s:g} s"
            text = f"MLflow at {self.uri} cannot be used: {reason}; {self._advice()}"
            raise UserError(text) from error

    def _advice(self) -> str:
        if self._local:
            return "check that the storage is writable, or set MLFLOW_TRACKING_URI to a server"
        return (
            "start that server, correct MLFLOW_TRACKING_URI, or unset it "
            "to record runs in an SQLite file under the storage"
        )

    def _make_experiment(self) -> str:
        name = self.settings.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return self.client.create_experiment(name, artifact_location=self._artifacts)
        if found.lifecycle_stage != "active":
            raise UserError(
                f"the MLflow experiment {name!r} was deleted; "
                f"`mlflow experiments restore -x {found.experiment_id}` restores it, "
                "or give another name with --tracking.experiment"
            )
        ours = self._local and not (self.settings.uri or os.environ.get("MLFLOW_TRACKING_URI"))
        if ours and found.artifact_location.rstrip("/") != self._artifacts:
            raise UserError(
                f"the MLflow experiment {name!r} keeps its files in {found.artifact_location}: "
                "the storage was moved or copied; move it back, "
                "or give another name with --tracking.experiment"
            )
        return found.experiment_id

    @property
    def experiment(self) -> str:
        """The experiment's id; the first use creates the experiment."""
        if self._experiment is None:
            self.check()
        assert self._experiment is not None
        return self._experiment

    @contextmanager
    def parent(self, name: str, fingerprint: str) -> Iterator[Run]:
        """The run of a whole job; the same fingerprint always continues the same run.

        The run ends FINISHED, FAILED (an exception) or KILLED (interrupted or stopped).
        """
        tags = {FINGERPRINT_TAG: fingerprint, **source_tags()}
        query = f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
        with self._open(name, tags, query) as run, self._monitored(run):
            yield run

    @contextmanager
    def child(self, parent: Run, name: str) -> Iterator[Run]:
        """A child run of ``parent``, identified by its name; it ends like a parent run."""
        tags = {PARENT_TAG: parent.id, CHILD_TAG: run_key(name)}
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        with self._open(name, tags, query) as run:
            yield run

    @contextmanager
    def _open(self, name: str, tags: Mapping[str, str], query: str) -> Iterator[Run]:
        run = Run(self.client, self._find_or_create(name, tags, query).info.run_id)
        self.client.update_run(run.id, status="RUNNING")
        status = "KILLED"
        try:
            yield run
            run.set_tags({"multiclue.finished": "true"})
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            self.client.set_terminated(run.id, status)

    def _find_or_create(self, name: str, tags: Mapping[str, str], query: str) -> MlflowRun:
        found = self.client.search_runs([self.experiment], query, max_results=1)
        if found:
            return found[0]
        return self.client.create_run(self.experiment, tags=dict(tags), run_name=name)

    @contextmanager
    def _monitored(self, run: Run) -> Iterator[None]:
        if not self.settings.system_metrics:
            yield
            return
        monitor = SystemMetricsMonitor(run.id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def using(self) -> Any:
        """A context in which MLflow's own functions use this tracker's URI."""
        return using_uri(self.uri)


def tracking_uri(settings: TrackingSettings, storage: Storage) -> str:
    """The setting, else MLFLOW_TRACKING_URI, else an absolute SQLite URI under the storage."""
    named = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    database = storage.local("mlflow/mlflow.db")
    if database is None:
        raise UserError(
            f"runs cannot be recorded in the remote storage {storage.uri}: "
            "set MLFLOW_TRACKING_URI to an MLflow server"
        )
    return f"sqlite:///{database}"


@contextmanager
def using_uri(uri: str) -> Iterator[None]:
    """Sets MLflow's process-wide tracking URI inside the context, and restores it afterward."""
    with _uri_lock:
        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


@contextmanager
def _impatient(seconds: float) -> Iterator[None]:
    """Makes MLflow's requests fail after one attempt; by default it retries for minutes."""
    changes = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(seconds))),
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

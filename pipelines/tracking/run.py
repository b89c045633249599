"""One MLflow run: what a job and its steps log."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from pipelines.tracking.provenance import flatten

if TYPE_CHECKING:
    import pyarrow as pa

TABLES_TAG = "mlflow.loggedArtifacts"

# The server's own limits (mlflow.utils.validation).
PARAM_LENGTH, TAG_LENGTH, KEY_LENGTH, DIGEST_LENGTH = 6000, 8000, 250, 36
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000


class Run:
    """An open MLflow run. Repeated calls after a restart record nothing twice."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.id = client, run_id

    def log_params(self, settings: Any) -> None:
        """Logs settings (a dataclass or nested mapping) as ``a.b.c`` -> text.

        MLflow's parameters cannot change. One that differs from an earlier attempt of the same run
        (such as the number of workers) is recorded as the tag ``resumed_with.NAME``.
        """
        known = self.client.get_run(self.id).data.params
        params = {
            run_key(key): str(value)[:PARAM_LENGTH] for key, value in flatten(settings).items()
        }
        fresh = [Param(key, value) for key, value in params.items() if key not in known]
        for batch in _batches(fresh, PARAMS_PER_CALL):
            self.client.log_batch(self.id, params=batch)
        self.set_tags(
            {
                f"resumed_with.{key}": value
                for key, value in params.items()
                if key in known and known[key] != value
            }
        )

    def log_metrics(self, metrics: Mapping[str, float | int | None], step: int = 0) -> None:
        """Logs numbers of one step; None values are skipped, NaN is kept."""
        self.log_curve([{"step": step, **metrics}])

    def log_curve(self, history: Iterable[Mapping[str, Any]], prefix: str = "") -> None:
        """Logs records with ``step`` and numbers, skipping the steps that the run already has."""
        wanted: dict[str, list[tuple[int, float]]] = {}
        for record in history:
            for key, value in record.items():
                if key != "step" and isinstance(value, int | float):
                    wanted.setdefault(run_key(prefix + key), []).append(
                        (record["step"], float(value))
                    )
        now, fresh = int(time.time() * 1000), []
        known = self.client.get_run(self.id).data.metrics
        for key, points in wanted.items():
            done = self._steps(key) if key in known else set()
            fresh += [Metric(key, value, now, step) for step, value in points if step not in done]
        for batch in _batches(fresh, METRICS_PER_CALL):
            self.client.log_batch(self.id, metrics=batch)

    def _steps(self, key: str) -> set[int]:
        return {metric.step for metric in self.client.get_metric_history(self.id, key)}

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        entries = [RunTag(run_key(key), str(value)[:TAG_LENGTH]) for key, value in tags.items()]
        for batch in _batches(entries, PARAMS_PER_CALL):
            self.client.log_batch(self.id, tags=batch)

    def log_table(self, name: str, table: pa.Table) -> None:
        """Logs a table as ``tables/NAME.json``, which MLflow's interface shows as a table."""
        path = f"tables/{name}.json"
        columns = table.column_names
        rows = [[row[column] for column in columns] for row in table.to_pylist()]
        text = json.dumps({"columns": columns, "data": rows}, default=str)
        self.client.log_text(self.id, text, path)
        known = json.loads(self.client.get_run(self.id).data.tags.get(TABLES_TAG, "[]"))
        entry = {"path": path, "type": "table"}
        if entry not in known:
            self.set_tags({TABLES_TAG: json.dumps([*known, entry])})

    def log_text(self, path: str, text: str) -> None:
        """Logs text as the artifact ``path``, for instance ``settings.yaml``."""
        self.client.log_text(self.id, text, path)

    def log_dataset(
        self,
        *,
        name: str,
        fingerprint: str,
        source: str,
        profile: Mapping[str, Any],
        context: str = "training",
    ) -> None:
        """Records the data set of the run.

        Args:
            name: name of the data set.
            fingerprint: of its files, labels and splits; also stored in full in the profile.
            source: path or URI of the data set.
            profile: further facts: classes, number of clips per split.
        """
        dataset = Dataset(
            name=name,
            digest=fingerprint[:DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps({"fingerprint": fingerprint, **profile}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        self.client.log_inputs(self.id, [DatasetInput(dataset=dataset, tags=tags)])

    @property
    def finished(self) -> bool:
        """Whether an earlier attempt finished this run."""
        return "multiclue.finished" in self.client.get_run(self.id).data.tags


def run_key(name: str) -> str:
    """A name that MLflow accepts: letters, digits and ``_-. :/``."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:KEY_LENGTH]


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])

"""Runs one callable over many videos on a pool of Ray Data actors, resumably. Moves, not computes.

Every video ends as exactly one row of the stage's ledger: done (with what is known of it) or
rejected (with the reason). A row is the only thing that travels; the artifact is written by the
actor that made it.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from actors.errors import MediaError
from actors.storage import Storage

CRASHES_ALLOWED = 2
"""A video that took its process down this often in one run is rejected, not tried for ever."""

LEDGER_EVERY_S = 2.0
ROWS_PER_BLOCK = 8
MIN_BLOCKS = 64

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("artifact", pa.string()),
        ("ok", pa.bool_()),
        ("kind", pa.string()),
        ("message", pa.string()),
        ("seconds", pa.float64()),
        ("facts", pa.string()),
    ]
)

Row = dict[str, Any]


class ClipWorker(Protocol):
    """What a pool runs: writes the row's artifact and returns what is worth knowing of it."""

    def __call__(self, row: Row) -> Row:
        """Works on one video.

        Raises:
            MediaError: this video can't be used; it becomes a rejected row.
        """
        ...


@dataclass(frozen=True)
class PoolResources:
    """What one actor of a pool asks Ray for."""

    actors: int
    cpus: float
    gpus: float = 0.0

    @staticmethod
    def for_cluster(*, max_actors: int | None = None, gpus_per_actor: float = 0.0) -> PoolResources:
        """One actor per CPU (or per share of a GPU), together leaving one CPU to Ray Data.

        Actors that hold every CPU would leave none for Ray Data's own tasks, and the job would
        wait for ever (ray#44687); so each of n actors asks for (n − 1)/n of a CPU.
        """
        have = ray.cluster_resources()
        cpus = max(int(have.get("CPU", 1)), 1)
        actors = cpus
        if gpus_per_actor and have.get("GPU"):
            actors = min(cpus, max(int(have["GPU"] / gpus_per_actor), 1))
        else:
            gpus_per_actor = 0.0
        actors = min(actors, max_actors or actors)
        share = math.floor(100 * (cpus - 1) / cpus) / 100 if cpus > 1 else 0.5
        return PoolResources(actors=actors, cpus=share, gpus=gpus_per_actor)


def crash_marker(row: Row) -> str:
    return f"{row['name']}.attempts"


class _Guarded:
    """One actor: runs the worker on a batch of rows, turning what goes wrong into rows."""

    def __init__(
        self, make_worker: Callable[[], ClipWorker], attempts: Storage, session: str
    ) -> None:
        self._worker = make_worker()
        self._attempts, self._session = attempts, session

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        for text in batch["row"]:
            yield {"row": [json.dumps(self._one(json.loads(text)))]}

    def _one(self, row: Row) -> Row:
        begun = time.perf_counter()
        out = {"id": row["id"], "artifact": row["name"], "ok": True, "kind": "", "message": ""}
        facts: Row = {}
        try:
            self._count_attempt(row)
            facts = self._worker(row)
        except MediaError as error:
            out |= {"ok": False, "kind": error.kind, "message": error.message}
        self._attempts.remove(crash_marker(row))
        out["seconds"] = time.perf_counter() - begun
        out["facts"] = json.dumps(facts)
        return out

    def _count_attempt(self, row: Row) -> None:
        """Only crashes of this very run count: a killed job says nothing against the video."""
        marker, past = crash_marker(row), 0
        if self._attempts.exists(marker):
            seen = self._attempts.read_json(marker)
            past = seen["count"] if seen["session"] == self._session else 0
        if past >= CRASHES_ALLOWED:
            raise MediaError("crash", f"the process died {past} times while working on this file")
        self._attempts.write_json(marker, {"session": self._session, "count": past + 1})


class Ledger:
    """The rows of a stage so far, kept as small Parquet parts beside the artifacts."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage.join("ledger")
        self._pending: list[Row] = []
        self._saved = time.monotonic()

    def rows(self) -> dict[str, Row]:
        """All rows by artifact name; the facts parsed."""
        tables = [self._storage.read_table(name) for name in self._storage.names(".parquet")]
        listed = pa.concat_tables(tables).to_pylist() if tables else []
        return {row["artifact"]: row | {"facts": json.loads(row["facts"])} for row in listed}

    def add(self, row: Row) -> None:
        self._pending.append(row)
        if time.monotonic() - self._saved > LEDGER_EVERY_S:
            self.save()

    def save(self) -> None:
        if self._pending:
            table = pa.Table.from_pylist(self._pending, schema=SCHEMA)
            self._storage.write_table(f"{uuid.uuid4().hex}.parquet", table)
            self._pending = []
        self._saved = time.monotonic()

    def compact(self) -> None:
        """Joins the parts into one file, so that a later run reads one."""
        parts = self._storage.names(".parquet")
        if len(parts) < 2:
            return
        table = pa.concat_tables([self._storage.read_table(name) for name in parts])
        self._storage.write_table(f"{uuid.uuid4().hex}.parquet", table)
        for name in parts:
            self._storage.remove(name)


def run_pool(
    rows: Sequence[Row],
    make_worker: Callable[[], ClipWorker],
    *,
    storage: Storage,
    resources: PoolResources,
    on_row: Callable[[int, int, Row], None],
) -> list[Row]:
    """Works through the rows that have no ledger entry yet.

    Args:
        rows: each with ``id``, ``name`` (the artifact's file name) and what the worker needs.
        make_worker: called once in each actor.
        storage: where the artifacts and the ledger are.
        on_row: called with (done, total, ledger row) as each video ends.

    Returns:
        One ledger row per input row, in the order of `rows`.
    """
    ledger = Ledger(storage)
    known = ledger.rows()
    todo = [row for row in rows if row["name"] not in known]
    done = len(rows) - len(todo)
    try:
        for out in _stream(todo, make_worker, storage.join("attempts"), resources):
            ledger.add(out)
            done += 1
            on_row(done, len(rows), out)
    finally:
        ledger.save()
    ledger.compact()
    known = ledger.rows()
    return [known[row["name"]] | {"id": row["id"]} for row in rows]


def _stream(
    todo: Sequence[Row],
    make_worker: Callable[[], ClipWorker],
    attempts: Storage,
    resources: PoolResources,
) -> Iterator[Row]:
    if not todo:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    blocks = min(len(todo), max(MIN_BLOCKS, len(todo) // ROWS_PER_BLOCK))
    items = [{"row": json.dumps(row)} for row in todo]
    dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        _Guarded,
        fn_constructor_args=(make_worker, attempts, uuid.uuid4().hex),
        batch_size=None,
        compute=ActorPoolStrategy(size=min(resources.actors, len(todo))),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
    )
    for item in dataset.iter_rows():
        yield json.loads(item["row"])

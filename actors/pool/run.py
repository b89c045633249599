"""Runs a callable over many clips with Ray Data, resumably.

Every clip ends as one row of the step's ledger: done (with facts) or rejected (with the reason).
Only rows pass between processes; the worker that makes an artifact writes it.
"""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from actors.errors import MediaError
from actors.pool.blocks import cut_blocks, groups
from actors.pool.ledger import CRASH, Ledger, Notes, Outcome
from actors.storage import Storage

CRASHES_ALLOWED = 2
"""Number of crashes in one run after which a clip is rejected."""

WORKERS_KEPT = 3
"""Number of runs whose workers a process keeps: one per stream embedded at the same time."""

OUTPUT_BYTES = 1
"""Size at which Ray Data hands on what a task has yielded; so it hands on every group at once."""

Item = dict[str, Any]
"""What a worker is given for one clip: ``id``, the artifact's ``name``, and more of the step's."""


class ClipWorker(Protocol):
    """Function of one item that writes its artifact and returns facts about it."""

    def __call__(self, row: Item) -> dict[str, Any]:
        """Processes one clip.

        Raises:
            MediaError: the clip can't be used; it becomes a rejected row.
        """
        ...


@dataclass(frozen=True)
class PoolResources:
    """Resources of a pool: number of workers, and CPUs and GPUs of each."""

    actors: int
    cpus: float
    gpus: float = 0.0

    @staticmethod
    def for_cluster(
        *, max_actors: int | None = None, gpus_per_actor: float = 0.0, side_by_side: int = 1
    ) -> PoolResources:
        """Returns one worker per CPU (or per share of a GPU), which leave one CPU to Ray Data.

        If workers held all CPUs, Ray Data's own tasks would never start (ray#44687); so each of n
        workers requests (n − 1)/n of a CPU.

        Args:
            max_actors: largest number of workers; None: no limit.
            gpus_per_actor: share of a GPU per worker; ignored if the cluster has none.
            side_by_side: number of pools that run at the same time and share the CPUs.
        """
        have = ray.cluster_resources()
        cpus = max(int(have.get("CPU", 1)), 1)
        actors = max(cpus // side_by_side, 1)
        if gpus_per_actor and have.get("GPU"):
            actors = min(actors, max(int(have["GPU"] / gpus_per_actor), 1))
        else:
            gpus_per_actor = 0.0
        actors = min(actors, max_actors or actors)
        share = math.floor(100 * (cpus - 1) / cpus) / 100 if cpus > 1 else 0.5
        return PoolResources(actors=actors, cpus=share, gpus=gpus_per_actor)


class _Guarded:
    """Runs the worker on a block of rows; a `MediaError` becomes a rejected row."""

    def __init__(self, make_worker: Callable[[], ClipWorker], notes: Notes) -> None:
        self._worker, self._notes = make_worker(), notes

    def __call__(self, block: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """Yields the outcomes of a group of rows at a time.

        The groups of a block are the same when Ray repeats it, as Ray requires of a task that
        yields; the rows that were finished before a crash are not processed again.
        """
        rows = [json.loads(text) for text in block["row"]]
        done = self._notes.finished([row["name"] for row in rows])
        for group in groups(rows):
            outcomes = [done.get(row["name"]) or self._one(row) for row in group]
            yield {"outcomes": [json.dumps(outcomes)]}

    def _one(self, row: Item) -> Outcome:
        begun = time.perf_counter()
        out: Outcome = {"id": row["id"], "artifact": row["name"], "ok": True}
        out |= {"kind": "", "message": ""}
        facts: dict[str, Any] = {}
        try:
            self._count_attempt(row["name"])
            facts = self._worker(row)
        except MediaError as error:
            out |= {"ok": False, "kind": error.kind, "message": error.message}
        out["seconds"] = time.perf_counter() - begun
        out["facts"] = json.dumps(facts)
        self._notes.finish(row["name"], out)
        return out

    def _count_attempt(self, name: str) -> None:
        past = self._notes.begin(name)
        if past >= CRASHES_ALLOWED:
            raise MediaError(CRASH, f"the process died {past} times while it worked on this file")


_kept: OrderedDict[str, _Guarded] = OrderedDict()
"""Workers of this process by their run's session."""


def _work(
    batch: dict[str, Any], make_worker: Callable[[], ClipWorker], notes: Notes
) -> Iterator[dict[str, list[str]]]:
    """One task: runs this process's worker of the run on a batch; see `_Guarded`."""
    if notes.session not in _kept:
        _kept[notes.session] = _Guarded(make_worker, notes)
        while len(_kept) > WORKERS_KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(notes.session)
    yield from _kept[notes.session](batch)


def run_pool(
    rows: Sequence[Item],
    make_worker: Callable[[], ClipWorker],
    *,
    storage: Storage,
    resources: PoolResources,
    on_row: Callable[[int, int, Outcome], None],
    artifacts: bool = True,
) -> list[Outcome]:
    """Processes the rows that the ledger has not settled yet; see `Ledger.settled`.

    Args:
        rows: each with ``id``, ``name`` (the artifact's file name) and the worker's own columns.
        make_worker: called once in each process.
        storage: storage of the artifacts and the ledger.
        on_row: called with (done, total, ledger row) after each clip.
        artifacts: whether the worker writes a file ``name`` into `storage` for each row; then a row
            whose file is missing is repeated.

    Returns:
        One ledger row per input row, in the order of `rows`.
    """
    ledger = Ledger(storage)
    ledger.adopt(Notes(storage, ""))
    notes = Notes(storage, uuid.uuid4().hex, since=ledger.newest)
    known = ledger.settled(set(storage.names()) if artifacts else None)
    todo = [row for row in rows if row["name"] not in known]
    done = len(rows) - len(todo)
    try:
        for out in _stream(todo, make_worker, notes, resources):
            ledger.add(out, notes)
            done += 1
            on_row(done, len(rows), out | {"facts": json.loads(out["facts"])})
    finally:
        ledger.save(notes)
    ledger.compact()
    known = ledger.rows()
    return [known[row["name"]] | {"id": row["id"]} for row in rows]


def _stream(
    todo: Sequence[Item],
    make_worker: Callable[[], ClipWorker],
    notes: Notes,
    resources: PoolResources,
) -> Iterator[Outcome]:
    if not todo:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.target_max_block_size = OUTPUT_BYTES
    blocks = cut_blocks(todo, resources.actors)
    tables = [pa.table({"row": [json.dumps(row) for row in block]}) for block in blocks]
    dataset = ray.data.from_arrow(tables).map_batches(
        **_engine(make_worker, notes, resources, min(resources.actors, len(todo))),
        batch_size=None,
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
    )
    for item in dataset.iter_rows():
        yield from json.loads(item["outcomes"])


def _engine(
    make_worker: Callable[[], ClipWorker], notes: Notes, resources: PoolResources, size: int
) -> Mapping[str, Any]:
    """Returns the arguments of `map_batches` for the function and its processes.

    Without GPUs it runs as tasks, whose processes Ray keeps for the next step. With GPUs it runs in
    actors, because Ray ends the process of a task that used a GPU.
    """
    if resources.gpus:
        return {
            "fn": _Guarded,
            "fn_constructor_args": (make_worker, notes),
            "compute": ActorPoolStrategy(size=size),
        }
    return {
        "fn": _work,
        "fn_args": (make_worker, notes),
        "compute": TaskPoolStrategy(size=size),
    }

"""The pool on a small local Ray: every video ends as one row, and nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from pathlib import Path

import pytest
import ray

from actors.errors import MediaError
from actors.pool.ledger import Notes
from actors.pool.run import PoolResources, run_pool
from actors.storage import Storage

pytestmark = pytest.mark.ray


class Upper:
    """Writes the row's text in capitals; some texts are refused, one takes the process down."""

    def __init__(self, storage, seen, *, writes=True):
        self.storage, self.seen, self.writes = storage, Path(seen), writes

    def __call__(self, row):
        (self.seen / f"{row['name']}-{uuid.uuid4().hex}").touch()
        if row["text"] == "bad":
            raise MediaError("unreadable", "no picture in it")
        if row["text"] == "kill" and not (self.seen / "mended").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.writes:
            self.storage.write_bytes(row["name"], row["text"].upper().encode())
        return {"letters": len(row["text"])}


class Make:
    """Makes the worker in the actor; by reference to values only, so Ray can send it."""

    def __init__(self, storage, seen, *, writes=True):
        self.worker = Upper(storage, seen, writes=writes)

    def __call__(self):
        return self.worker


@pytest.fixture(scope="module")
def cluster():
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def place(tmp_path, cluster):
    (tmp_path / "seen").mkdir()
    return Storage(tmp_path / "out"), tmp_path / "seen"


def rows_of(*texts):
    return [{"id": f"id/{text}", "name": f"{text}.bin", "text": text} for text in texts]


def work(place, *texts, writes=True):
    """The rows, and the names of the videos that were worked on."""
    storage, seen = place
    before, told = set(os.listdir(seen)), []
    out = run_pool(
        rows_of(*texts),
        Make(storage, seen, writes=writes),
        storage=storage,
        resources=PoolResources(actors=1, cpus=0.5),
        on_row=lambda done, total, row: told.append((done, total, row["id"])),
        artifacts=writes,
    )
    done = sorted(name.split(".")[0] for name in set(os.listdir(seen)) - before if "-" in name)
    assert len(told) == len(set(told))
    assert [row["id"] for row in out] == [f"id/{text}" for text in texts]
    return out, done


def test_rows_facts_and_resuming(place):
    storage, _ = place
    (one, bad, two), done = work(place, "one", "bad", "three")
    assert done == ["bad", "one", "three"]
    assert (one["ok"], one["facts"], one["artifact"]) == (True, {"letters": 3}, "one.bin")
    assert (bad["ok"], bad["kind"], bad["message"]) == (False, "unreadable", "no picture in it")
    assert (two["facts"], storage.read_bytes("three.bin")) == ({"letters": 5}, b"THREE")
    assert storage.join("notes").names() == []

    again, done = work(place, "three", "bad", "one")
    assert (done, again) == ([], [two, bad, one])
    _, done = work(place, "one", "four")
    assert done == ["four"]

    storage.remove("one.bin")
    (anew, *_), done = work(place, "one", "bad", "three")
    assert done == ["one"], "its artifact was gone"
    assert anew["seconds"] != one["seconds"], "the newer row wins"
    assert storage.read_bytes("one.bin") == b"ONE"


def test_a_worker_that_writes_nothing_is_not_asked_again(place):
    first, done = work(place, "one", writes=False)
    assert done == ["one"]
    assert work(place, "one", writes=False) == (first, [])


def test_a_video_that_kills_its_process_is_a_row_and_is_tried_in_the_next_run(place):
    _, seen = place
    (one, killer), done = work(place, "one", "kill")
    assert done.count("kill") == 2
    assert one["ok"]
    assert (killer["ok"], killer["kind"]) == (False, "crash")
    assert "died 2 times" in killer["message"]
    (seen / "mended").touch()
    (_, killer), done = work(place, "one", "kill")
    assert (done, killer["ok"], killer["facts"]) == (["kill"], True, {"letters": 4})


def test_rows_finished_before_a_crash_are_not_processed_again(place):
    texts = [f"text{i}" for i in range(30)]
    out, done = work(place, *texts[:20], "kill", *texts[20:])
    assert done.count("kill") == 2
    assert [done.count(text) for text in texts] == [1] * 30
    assert [row["id"] for row in out if not row["ok"]] == ["id/kill"]


def test_what_a_killed_job_had_finished_is_taken_over(place):
    storage, _ = place
    notes = Notes(storage, "killed")
    outcome = {"id": "id/one", "artifact": "one.bin", "ok": True, "kind": "", "message": ""}
    notes.begin("one.bin")
    storage.write_bytes("one.bin", b"ONE")
    notes.finish("one.bin", outcome | {"seconds": 9.0, "facts": json.dumps({"letters": 3})})
    notes.begin("two.bin")
    notes.begin("two.bin")
    begun = time.monotonic()
    (one, two), done = work(place, "one", "two")
    assert done == ["two"], "attempts of the killed job say nothing against it"
    assert (one["seconds"], one["facts"]) == (9.0, {"letters": 3})
    assert two["ok"]
    assert two["seconds"] < time.monotonic() - begun
    assert storage.join("notes").names() == []

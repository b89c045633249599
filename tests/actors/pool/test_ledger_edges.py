"""When the ledger writes, what its parts are called, and what it does when they move."""

import os
import time

import pytest

from actors.pool.ledger import Ledger, Notes
from actors.storage import Storage


def row(name, **changes):
    values = dict.fromkeys(("id", "artifact"), name) | {"ok": True, "kind": "", "message": ""}
    return values | {"seconds": 1.0, "facts": '{"frames": 3}'} | changes


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path)


@pytest.fixture
def notes(storage):
    return Notes(storage, "this run")


def part_times(storage):
    return [int(name.split("-")[1]) for name in storage.join("ledger").names(".parquet")]


def test_rows_are_saved_every_two_seconds(storage, notes, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ledger, written = Ledger(storage), []
    for now in (1000.0, 1001.9, 1002.0, 1003.9, 1004.0):
        ledger.add(row(f"at{now}"), notes)
        written.append(len(part_times(storage)))
    assert written == [0, 0, 1, 1, 2]
    assert len(Ledger(storage).rows()) == 5


def test_saving_nothing_writes_nothing(storage, notes):
    ledger = Ledger(storage)
    ledger.save(notes)
    ledger.add(row("a"), notes)
    ledger.save(notes)
    ledger.save(notes)
    assert len(part_times(storage)) == 1


def test_parts_count_on_while_the_clock_stands(storage, notes, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    for _ in range(3):
        ledger = Ledger(storage)
        ledger.rows()
        ledger.add(row("a"), notes)
        ledger.save(notes)
    assert part_times(storage) == [1, 2, 3]


def test_facts_come_back_as_values(storage, notes):
    ledger = Ledger(storage)
    ledger.add(row("a"), notes)
    ledger.save(notes)
    assert ledger.rows() == {"a": row("a", facts={"frames": 3})}


def test_a_part_between_those_that_are_joined_stays_older_than_the_newest(
    storage, notes, monkeypatch
):
    for now in (10, 30):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        ledger = Ledger(storage)
        ledger.add(row("a", seconds=now), notes)
        ledger.save(notes)
    joining = Ledger(storage)
    joining.compact()
    assert part_times(storage) == [30]
    # Another job's slow write: its name has a time before that of the joined part.
    monkeypatch.setattr(time, "time_ns", lambda: 20)
    late = Ledger(storage)
    late.add(row("a", seconds=20), notes)
    late.save(notes)
    assert Ledger(storage).rows()["a"]["seconds"] == 30


def test_one_part_is_not_joined_again(storage, notes):
    ledger = Ledger(storage)
    ledger.compact()
    assert storage.join("ledger").names() == []
    ledger.add(row("a"), notes)
    ledger.save(notes)
    before = storage.join("ledger").names()
    ledger.compact()
    assert storage.join("ledger").names() == before


def test_parts_that_vanish_again_and_again_are_listed_five_times(storage, notes, monkeypatch):
    ledger = Ledger(storage)
    ledger.add(row("a"), notes)
    ledger.save(notes)
    listings, names = [], Storage.names

    def moving(self, suffix=""):
        listings.append(suffix)
        return [*names(self, suffix), f"part-{len(listings):020d}-gone.parquet"]

    monkeypatch.setattr(Storage, "names", moving)
    assert set(ledger.rows()) == {"a"}
    assert len(listings) == 5


def test_notes_do_not_wait_for_the_disk_but_rows_do(storage, notes, monkeypatch):
    waits, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: waits.append(file) or sync(file))
    notes.begin("a")
    notes.finish("a", row("a"))
    assert waits == []
    ledger = Ledger(storage)
    ledger.adopt(notes)
    assert len(waits) == 1


def test_a_finished_attempt_leaves_its_outcome_only(storage, notes):
    notes.begin("a")
    assert storage.join("notes").names() == ["a.attempt"]
    notes.finish("a", row("a"))
    assert storage.join("notes").names() == ["a.outcome"]
    assert notes.outcomes() == [row("a")]
    notes.forget([row("a"), row("never noted")])
    assert notes.outcomes() == []


def test_a_block_without_an_interrupted_attempt_has_no_finished_rows(storage, notes):
    notes.begin("a")
    notes.finish("a", row("a"))
    notes.begin("other")
    assert notes.finished(["a", "b"]) == {}


def test_finished_rows_of_a_crashed_block_are_those_of_this_run(storage):
    earlier = Ledger(storage)
    earlier.add(row("old", seconds=9.0), Notes(storage, "an earlier run"))
    earlier.save(Notes(storage, "an earlier run"))
    ledger = Ledger(storage)
    ledger.rows()
    notes = Notes(storage, "this run", since=ledger.newest)
    ledger.add(row("saved"), notes)
    ledger.save(notes)
    notes.finish("noted", row("noted", seconds=2.0))
    notes.finish("elsewhere", row("elsewhere"))
    notes.begin("interrupted")
    found = notes.finished(["old", "saved", "noted", "interrupted"])
    assert {name: one["seconds"] for name, one in found.items()} == {"saved": 1.0, "noted": 2.0}
    assert isinstance(found["saved"]["facts"], str)

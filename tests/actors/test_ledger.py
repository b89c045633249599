"""The ledger: which row wins, what is settled, and two jobs on one storage."""

from __future__ import annotations

import time

import pytest

from actors.pool.ledger import Ledger, Notes
from actors.storage import Storage


def row(name, *, ok=True, kind="", seconds=1.0):
    return {
        "id": name,
        "artifact": name,
        "ok": ok,
        "kind": kind,
        "message": "",
        "seconds": seconds,
        "facts": "{}",
    }


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path)


@pytest.fixture
def notes(storage):
    return Notes(storage, "this run")


def save(storage, notes, *rows):
    ledger = Ledger(storage)
    ledger.rows()
    for one in rows:
        ledger.add(one, notes)
    ledger.save(notes)
    return ledger


def test_the_newer_row_wins_before_and_after_joining(storage, notes):
    for seconds in range(20):
        ledger = save(storage, notes, row("a", seconds=seconds), row(f"b{seconds}"))
        assert ledger.rows()["a"]["seconds"] == seconds
    ledger.compact()
    assert len(storage.join("ledger").names()) == 1
    assert ledger.rows()["a"]["seconds"] == 19
    assert len(ledger.rows()) == 21
    assert save(storage, notes, row("a", seconds=20)).rows()["a"]["seconds"] == 20


def test_the_newer_row_wins_even_if_this_clock_is_behind(storage, notes, monkeypatch):
    save(storage, notes, row("a", seconds=1))
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert save(storage, notes, row("a", seconds=2)).rows()["a"]["seconds"] == 2


def test_what_another_job_adds_while_parts_are_joined_stays_newer(storage, notes, monkeypatch):
    save(storage, notes, row("a", seconds=1))
    ledger = save(storage, notes, row("b"))
    joining = ledger._newest_rows

    def meanwhile(parts):
        rows = joining(parts)
        monkeypatch.undo()
        save(storage, notes, row("a", seconds=2))
        return rows

    monkeypatch.setattr(ledger, "_newest_rows", meanwhile)
    ledger.compact()
    assert len(storage.join("ledger").names()) == 2
    assert Ledger(storage).rows()["a"]["seconds"] == 2


def test_parts_that_another_job_joins_while_they_are_read(storage, notes, monkeypatch):
    save(storage, notes, row("a"))
    save(storage, notes, row("b"))
    reader, read = Ledger(storage), Storage.read_table
    other = [Ledger(storage)]

    def late(self, name):
        if other:
            other.pop().compact()
        return read(self, name)

    monkeypatch.setattr(Storage, "read_table", late)
    assert set(reader.rows()) == {"a", "b"}
    assert not other


def test_settled_leaves_out_crashes_and_artifacts_that_are_gone(storage, notes):
    rejected = row("bad", ok=False, kind="unreadable")
    crashed = row("crashed", ok=False, kind="crash")
    ledger = save(storage, notes, row("kept"), row("gone"), rejected, crashed)
    assert set(ledger.settled({"kept"})) == {"kept", "bad"}
    assert set(ledger.settled(None)) == {"kept", "gone", "bad"}
    assert set(ledger.rows()) == {"kept", "gone", "bad", "crashed"}


def test_notes_of_a_killed_run_are_taken_over_once(storage, notes):
    notes.begin("a")
    notes.finish("a", row("a"))
    ledger = Ledger(storage)
    assert ledger.rows() == {}
    ledger.adopt(Notes(storage, "next run"))
    assert set(ledger.rows()) == {"a"}
    assert storage.join("notes").names() == []


def test_attempts_count_within_one_run_only(storage, notes):
    assert [notes.begin("a"), notes.begin("a"), notes.begin("b")] == [0, 1, 0]
    assert Notes(storage, "next run").begin("a") == 0


def test_a_note_that_another_job_saves_first_is_passed_over(storage, notes, monkeypatch):
    notes.finish("a", row("a"))
    notes.finish("b", row("b"))
    read = Storage.read_json

    def late(self, name):
        self.remove("a.outcome")
        return read(self, name)

    monkeypatch.setattr(Storage, "read_json", late)
    assert [one["id"] for one in notes.outcomes()] == ["b"]

"""What became of every video of a stage: small tables beside the artifacts. Moves (files)."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.storage import Storage

LEDGER_EVERY_S = 2.0
"""Rows are saved at least this often, so that a killed job knows all but the last of them."""

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


@dataclass(frozen=True)
class Notes:
    """What an actor leaves beside the artifacts while it works, one small file per video in hand.

    A note of an attempt counts crashes; a note of an outcome lets a job that was killed before it
    saved its ledger know what had been finished.

    Args:
        storage: of the stage.
        session: names this run of the job. Only crashes of this very run count: that a job was
            killed says nothing against the video in hand.
    """

    storage: Storage
    session: str

    @property
    def _folder(self) -> Storage:
        return self.storage.join("notes")

    def begin(self, name: str) -> int:
        """Notes an attempt; returns how many of this run's came to no end before it."""
        note, past = f"{name}.attempt", 0
        if self._folder.exists(note):
            seen = self._folder.read_json(note)
            past = seen["count"] if seen["session"] == self.session else 0
        content = {"session": self.session, "count": past + 1}
        self._folder.write_json(note, content, durable=False)
        return past

    def finish(self, name: str, row: Row) -> None:
        self._folder.write_json(f"{name}.outcome", row, durable=False)
        self._folder.remove(f"{name}.attempt")

    def outcomes(self) -> list[Row]:
        return [self._folder.read_json(name) for name in self._folder.names(".outcome")]

    def forget(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._folder.remove(f"{row['artifact']}.outcome")


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

    def adopt(self, notes: Notes) -> None:
        """Takes over what a killed run finished without saving it here."""
        self._pending += notes.outcomes()
        self.save(notes)

    def add(self, row: Row, notes: Notes) -> None:
        self._pending.append(row)
        if time.monotonic() - self._saved > LEDGER_EVERY_S:
            self.save(notes)

    def save(self, notes: Notes) -> None:
        """Writes what is pending; only then are its notes of no more use."""
        if self._pending:
            table = pa.Table.from_pylist(self._pending, schema=SCHEMA)
            self._storage.write_table(f"{uuid.uuid4().hex}.parquet", table)
            notes.forget(self._pending)
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

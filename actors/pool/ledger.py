"""What became of every video of a stage: small tables beside the artifacts. Moves (files)."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.storage import Storage

LEDGER_EVERY_S = 2.0
"""Rows are saved at least this often, so that a killed job knows all but the last of them."""

CRASH = "crash"
"""Kind of the row of a video that took its process down."""

LISTINGS = 5
"""How often the parts are listed again when another job joins them while they are read."""

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
        # There is mostly none; and another job on this storage may remove it at any time.
        with suppress(FileNotFoundError):
            seen = self._folder.read_json(note)
            past = seen["count"] if seen["session"] == self.session else 0
        content = {"session": self.session, "count": past + 1}
        self._folder.write_json(note, content, durable=False)
        return past

    def finish(self, name: str, row: Row) -> None:
        self._folder.write_json(f"{name}.outcome", row, durable=False)
        self._folder.remove(f"{name}.attempt")

    def outcomes(self) -> list[Row]:
        rows = []
        for name in self._folder.names(".outcome"):
            # Another job on this storage may have just saved this one in the ledger.
            with suppress(FileNotFoundError):
                rows.append(self._folder.read_json(name))
        return rows

    def forget(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._folder.remove(f"{row['artifact']}.outcome")


class Ledger:
    """The rows of a stage so far, kept as small Parquet parts beside the artifacts.

    Parts are named by time, so that in the order of their names a newer row of an artifact
    follows an older one, and wins.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage.join("ledger")
        self._pending: list[Row] = []
        self._saved = time.monotonic()
        self._newest = 0

    def rows(self) -> dict[str, Row]:
        """The newest row of each artifact, by artifact name; the facts parsed."""
        newest = self._newest_rows(self._parts())
        return {name: row | {"facts": json.loads(row["facts"])} for name, row in newest.items()}

    def settled(self, artifacts: Collection[str] | None) -> dict[str, Row]:
        """The rows that a new run need not do again.

        A video that took its process down is tried again, for that may have been the machine's
        fault; and so is one whose artifact is gone.

        Args:
            artifacts: names of the artifacts that exist; None where the stage writes none.
        """
        return {
            name: row
            for name, row in self.rows().items()
            if row["kind"] != CRASH and (not row["ok"] or artifacts is None or name in artifacts)
        }

    def adopt(self, notes: Notes) -> None:
        """Takes over what a killed run finished without saving it here."""
        self._pending += notes.outcomes()
        self.save(notes)

    def add(self, row: Row, notes: Notes) -> None:
        self._pending.append(row)
        if time.monotonic() - self._saved >= LEDGER_EVERY_S:
            self.save(notes)

    def save(self, notes: Notes) -> None:
        """Writes what is pending; only then are its notes of no more use."""
        if self._pending:
            table = pa.Table.from_pylist(self._pending, schema=SCHEMA)
            # Never older than what was read, even if this machine's clock is behind another's.
            self._newest = max(time.time_ns(), self._newest + 1)
            self._storage.write_table(_part(self._newest), table)
            notes.forget(self._pending)
            self._pending = []
        self._saved = time.monotonic()

    def compact(self) -> None:
        """Joins the parts into one file, so that a later run reads one; outdated rows go."""
        parts = self._parts()
        if len(parts) < 2:
            return
        table = pa.Table.from_pylist(list(self._newest_rows(parts).values()), schema=SCHEMA)
        # As old as its newest part: what another job adds meanwhile stays newer.
        self._storage.write_table(_part(_time_of(list(parts)[-1])), table)
        for name in parts:
            self._storage.remove(name)

    def _parts(self) -> dict[str, pa.Table]:
        """The parts by name, oldest first.

        A part that vanishes before it is read was joined with others by another job, so the
        joined one is looked for.
        """
        read: dict[str, pa.Table] = {}
        names: list[str] = []
        for _ in range(LISTINGS):
            names = self._storage.names(".parquet")
            for name in names:
                if name not in read:
                    with suppress(FileNotFoundError):
                        read[name] = self._storage.read_table(name)
            if all(name in read for name in names):
                break
        self._newest = max([self._newest, *(_time_of(name) for name in names)])
        return {name: read[name] for name in names if name in read}

    @staticmethod
    def _newest_rows(parts: dict[str, pa.Table]) -> dict[str, Row]:
        return {row["artifact"]: row for table in parts.values() for row in table.to_pylist()}


def _part(time_ns: int) -> str:
    return f"part-{time_ns:020d}-{uuid.uuid4().hex}.parquet"


def _time_of(part: str) -> int:
    """Nanoseconds since 1970 at which a part was written."""
    return int(part.split("-")[1])

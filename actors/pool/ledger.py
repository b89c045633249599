"""The outcome of every clip of a step, in small tables beside its artifacts."""

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
"""Seconds between saves of the ledger; a killed job loses at most the rows after the last save."""

CRASH = "crash"
"""Kind of a row whose clip ended its process."""

LISTINGS = 5
"""Largest number of listings of the parts, which another job may join while they are read."""

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

Outcome = dict[str, Any]
"""What became of one clip: the columns of the ledger, `facts` as JSON text or as parsed values."""


@dataclass(frozen=True)
class Notes:
    """Notes of workers beside the artifacts: one small file per clip in progress.

    Notes of attempts count crashes. Notes of outcomes preserve the results of a job that is killed
    before it saves its ledger.

    Args:
        storage: storage of the step.
        session: name of this run of the job. Only crashes of the same run count, because a killed
            job is no evidence against the clips in progress.
        since: `Ledger.newest` when the run began.
    """

    storage: Storage
    session: str
    since: int = 0

    @property
    def _folder(self) -> Storage:
        return self.storage.join("notes")

    def begin(self, name: str) -> int:
        """Notes an attempt; returns the number of this run's earlier attempts that did not end."""
        note, past = f"{name}.attempt", 0
        # Mostly there is no note; another job on this storage may remove it at any time.
        with suppress(FileNotFoundError):
            seen = self._folder.read_json(note)
            past = seen["count"] if seen["session"] == self.session else 0
        content = {"session": self.session, "count": past + 1}
        self._folder.write_json(note, content, durable=False)
        return past

    def finish(self, name: str, row: Outcome) -> None:
        """Notes the outcome of a clip and removes the note of its attempt."""
        self._folder.write_json(f"{name}.outcome", row, durable=False)
        self._folder.remove(f"{name}.attempt")

    def outcomes(self) -> list[Outcome]:
        """Returns all noted outcomes."""
        rows = []
        for name in self._folder.names(".outcome"):
            # Another job on this storage may save this outcome in its ledger and remove the note.
            with suppress(FileNotFoundError):
                rows.append(self._folder.read_json(name))
        return rows

    def finished(self, names: Sequence[str]) -> dict[str, Outcome]:
        """Returns the outcomes that this run has for the rows of a block which a crash ended.

        Args:
            names: names of the block's artifacts.

        Returns:
            Outcomes by name; none if no attempt at a row of the block was interrupted.
        """
        wanted = set(names)
        attempts = {name.removesuffix(".attempt") for name in self._folder.names(".attempt")}
        if wanted.isdisjoint(attempts):
            return {}
        # Notes first: what the ledger saves meanwhile is in one of the two.
        noted = {row["artifact"]: row for row in self.outcomes()}
        saved = Ledger(self.storage).rows_since(self.since)
        return {name: row for name, row in (saved | noted).items() if name in wanted}

    def forget(self, rows: Sequence[Outcome]) -> None:
        """Removes the notes of these outcomes."""
        for row in rows:
            self._folder.remove(f"{row['artifact']}.outcome")


class Ledger:
    """The rows of a step, in small Parquet files (parts) beside the artifacts.

    Names of parts begin with their time, so in the order of names newer rows of an artifact follow
    older ones and replace them.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage.join("ledger")
        self._pending: list[Outcome] = []
        self._saved = time.monotonic()
        self._newest = 0

    @property
    def newest(self) -> int:
        """Time (ns since 1970) of the newest part that was read or written."""
        return self._newest

    def rows(self) -> dict[str, Outcome]:
        """Returns the newest row of each artifact by the artifact's name, with parsed facts."""
        newest = self._newest_rows(self._parts())
        return {name: row | {"facts": json.loads(row["facts"])} for name, row in newest.items()}

    def rows_since(self, newest: int) -> dict[str, Outcome]:
        """Returns the rows of parts that are newer, as they were added, by artifact."""
        parts = self._parts()
        return self._newest_rows({n: t for n, t in parts.items() if _time_of(n) > newest})

    def settled(self, artifacts: Collection[str] | None) -> dict[str, Outcome]:
        """Returns the rows that a new run does not repeat.

        A clip that ended its process is repeated, because the machine may have been at fault. A
        clip whose artifact is missing is repeated too.

        Args:
            artifacts: names of the existing artifacts; None if the step writes none.
        """
        return {
            name: row
            for name, row in self.rows().items()
            if row["kind"] != CRASH and (not row["ok"] or artifacts is None or name in artifacts)
        }

    def adopt(self, notes: Notes) -> None:
        """Adds the noted outcomes of killed runs and saves the ledger."""
        self._pending += notes.outcomes()
        self.save(notes)

    def add(self, row: Outcome, notes: Notes) -> None:
        self._pending.append(row)
        if time.monotonic() - self._saved >= LEDGER_EVERY_S:
            self.save(notes)

    def save(self, notes: Notes) -> None:
        """Writes the pending rows, then removes their notes."""
        if self._pending:
            table = pa.Table.from_pylist(self._pending, schema=SCHEMA)
            # Newer than all parts read, even if this machine's clock is behind another one's.
            self._newest = max(time.time_ns(), self._newest + 1)
            self._storage.write_table(_part(self._newest), table)
            notes.forget(self._pending)
            self._pending = []
        self._saved = time.monotonic()

    def compact(self) -> None:
        """Joins the parts into one file and drops outdated rows."""
        parts = self._parts()
        if len(parts) < 2:
            return
        table = pa.Table.from_pylist(list(self._newest_rows(parts).values()), schema=SCHEMA)
        # With the time of the newest part, so that rows of another job stay newer.
        self._storage.write_table(_part(_time_of(list(parts)[-1])), table)
        for name in parts:
            self._storage.remove(name)

    def _parts(self) -> dict[str, pa.Table]:
        """Returns the parts by name, oldest first.

        If a part vanishes before it is read, another job joined it with others, and the parts are
        listed again.
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
    def _newest_rows(parts: dict[str, pa.Table]) -> dict[str, Outcome]:
        return {row["artifact"]: row for table in parts.values() for row in table.to_pylist()}


def _part(time_ns: int) -> str:
    return f"part-{time_ns:020d}-{uuid.uuid4().hex}.parquet"


def _time_of(part: str) -> int:
    """Nanoseconds since 1970 at which a part was written."""
    return int(part.split("-")[1])

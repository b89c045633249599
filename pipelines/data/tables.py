"""Format `csv`: a table with the columns path, label and, optionally, split and group.

Parquet files with the same columns are read too; there `label` may also be a list of strings.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import UserError, nearest
from pipelines.data.listing import Entry, Listing
from pipelines.data.manifest import SPLITS, Split
from pipelines.data.media import first_few
from pipelines.data.splits import SplitSettings

NEEDED = ("path", "label")
COLUMNS = (*NEEDED, "split", "group")

# one line: its location ("clips.csv line 7") and its cells by column
Line = tuple[str, dict[str, Any]]


def list_table(path: Path, splits: SplitSettings) -> Listing:
    """Lists the rows of a CSV or Parquet table.

    Relative paths are relative to the table's folder. Several labels are joined by ``|`` and make
    the data set multi-label. Other columns are ignored.

    Raises:
        UserError: a column is missing, a cell is empty, a split is unknown, or a file does not
            exist; the message names the line.
    """
    del splits  # the table defines its splits
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, but format 'csv' reads a file; "
            "give the table, or use format 'folders'"
        )
    rows = list(_parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path))
    if not rows:
        raise UserError(f"{path} has no rows; list one clip per row")
    _check_splits_column(rows)
    entries = tuple(_entry(where, cells, path.parent) for where, cells in rows)
    _check_files(entries)
    classes = tuple(sorted({label for entry in entries for label in entry.labels}))
    multi_label = any(len(entry.labels) > 1 for entry in entries)
    return Listing(entries, classes, multi_label, path.stem)


def _csv_rows(path: Path) -> Iterator[Line]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            header = [name.strip().lower() for name in next(lines, [])]
            _check_columns(header, f"{path} line {max(lines.line_num, 1)}")
            for cells in lines:
                where = f"{path} line {lines.line_num}"
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise UserError(
                        f"{where}: {len(cells)} cells, but the header has {len(header)} columns; "
                        "put a cell that contains a comma in double quotes"
                    )
                yield where, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Line]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error
    table = table.rename_columns([name.strip().lower() for name in table.column_names])
    _check_columns(table.column_names, str(path))
    wanted = [name for name in COLUMNS if name in table.column_names]
    for number, cells in enumerate(table.select(wanted).to_pylist(), start=1):
        yield f"{path} row {number}", cells


def _check_columns(header: Sequence[str], where: str) -> None:
    twice = sorted({name for name in header if name in COLUMNS and header.count(name) > 1})
    if twice:
        raise UserError(f"{where}: column {twice[0]!r} is listed twice; remove one")
    for name in NEEDED:
        if name not in header:
            found = ", ".join(header) or "none"
            raise UserError(
                f"{where}: no column {name!r}; the columns are: {found}{nearest(name, header)}"
                f" (a table needs {' and '.join(NEEDED)}; split and group are optional)"
            )


def _check_splits_column(rows: Sequence[Line]) -> None:
    """Requires a split in all rows or in none, because a missing one cannot be guessed."""
    empty = [where for where, cells in rows if not cells.get("split")]
    if 0 < len(empty) < len(rows):
        raise UserError(
            f"{empty[0]}: split is empty while other rows have one ({len(empty)} such rows); write "
            "train, val or test in every row, or remove the column to have the splits made"
        )


def _entry(where: str, cells: dict[str, Any], root: Path) -> Entry:
    text = cells["path"]
    if not text:
        raise UserError(f"{where}: path is empty; give the clip's file")
    path = os.path.abspath(root / os.path.expanduser(str(text)))
    below = Path(path).is_relative_to(os.path.abspath(root))
    clip_id = Path(os.path.relpath(path, root) if below else path).as_posix()
    group = cells.get("group")
    return Entry(
        id=clip_id,
        path=path,
        labels=_labels(cells["label"], where),
        where=where,
        split=_split(cells.get("split"), where),
        group=str(group) if group not in (None, "") else None,
    )


def _labels(cell: Any, where: str) -> tuple[str, ...]:
    parts = cell if isinstance(cell, list) else str("" if cell is None else cell).split("|")
    labels = tuple(str("" if part is None else part).strip() for part in parts)
    if not labels or not all(labels):
        raise UserError(
            f"{where}: empty label in {cell!r}; name the clip's class, several joined by '|'"
        )
    return tuple(dict.fromkeys(labels))


def _split(cell: Any, where: str) -> Split | None:
    if cell in (None, ""):
        return None
    word = str(cell).strip().lower()
    for name in SPLITS:
        if word == name or (name == "val" and word == "validation"):
            return name
    raise UserError(
        f"{where}: unknown split {cell!r}{nearest(word, SPLITS)} (one of {', '.join(SPLITS)})"
    )


def _check_files(entries: Sequence[Entry]) -> None:
    missing = [entry for entry in entries if not os.path.isfile(entry.path)]
    if missing:
        raise UserError(
            f"{missing[0].where}: file {missing[0].path} does not exist; {len(missing)} of "
            f"{len(entries)} listed files are missing: {first_few([e.id for e in missing])} "
            "(paths are relative to the table's folder)"
        )

"""Predictions as a table on the terminal and as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from actors.errors import UserError

if TYPE_CHECKING:
    from trainers.prediction import PredictionRow

SUFFIXES = (".csv", ".json", ".parquet")
SHARE = "share_"

SCHEMA = {
    "path": pa.string(),
    "label": pa.string(),
    "probability": pa.float64(),
    "labels": pa.list_(pa.string()),
    "probabilities": pa.list_(pa.float64()),
    "streams": pa.string(),
    "error": pa.string(),
}


def check_output(output: str | None, *, embeddings: bool) -> None:
    """Raises UserError, before any work starts, for an output that cannot be written."""
    if output is None:
        if embeddings:
            raise UserError("--embeddings needs --output FILE.parquet or FILE.json")
        return
    path = Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output {output}: it must end in one of {', '.join(SUFFIXES)}")
    if embeddings and path.suffix.lower() == ".csv":
        raise UserError(f"--output {output}: CSV cannot hold embeddings; use .parquet or .json")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--output {output}: {folder} is not a folder with write permission")


SHOWN = 40
"""Largest number of videos in the terminal's table."""


def predictions_table(rows: Sequence[PredictionRow]) -> Table:
    """For the terminal: a row per video, its best classes and each stream's share."""
    streams = _streams(rows)
    table = Table()
    table.add_column("video", overflow="fold")
    table.add_column("classes", overflow="fold")
    for stream in streams:
        table.add_column(stream, justify="right")
    for row in rows:
        if row["error"]:
            table.add_row(Text(_shown(row["path"])), Text(row["error"], style="red"))
            continue
        table.add_row(
            Text(_shown(row["path"])),
            _classes(row),
            *(
                f"{row[SHARE + stream]:.0%}" if stream in row["streams"].split(",") else "–"
                for stream in streams
            ),
        )
    return table


def in_words(rows: Sequence[PredictionRow], output: str | None) -> str:
    """How many videos were predicted, how many could not be used, and the output file."""
    failed = sum(bool(row["error"]) for row in rows)
    parts = [f"{_videos(len(rows) - failed)} predicted"]
    if failed:
        parts.append(f"{_videos(failed)} that cannot be used")
    if output:
        parts.append(f"all in {output}")
    if len(rows) > SHOWN:
        keep = "" if output else "; --output FILE writes all"
        parts.append(f"the first {SHOWN} shown{keep}")
    return ", ".join(parts)


def _videos(count: int) -> str:
    return f"{count:,} video{'' if count == 1 else 's'}"


def _classes(row: PredictionRow) -> Text:
    parts = [
        f"{label} {probability:.1%}"
        for label, probability in zip(row["labels"], row["probabilities"], strict=True)
    ]
    return Text.assemble((parts[0], "bold"), *(f"  {part}" for part in parts[1:]))


def _shown(path: str) -> str:
    """Relative to the working folder if the path is below it."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else path


def write_predictions(rows: Sequence[PredictionRow], path: Path, *, embeddings: bool) -> None:
    """Writes all rows in the format that the suffix of `path` names; atomic."""
    if not embeddings:
        rows = [{k: v for k, v in row.items() if k != "embedding"} for row in rows]
    rows = [_without_scores(row) if row["error"] else row for row in rows]
    writers = {".csv": _to_csv, ".json": _to_json, ".parquet": _to_parquet}
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(writers[path.suffix.lower()](rows))
    temporary.replace(path)


def _without_scores(row: PredictionRow) -> PredictionRow:
    """The row of a video that could not be used: a missing score is not a score of 0."""
    return {k: None if k == "probability" or k.startswith(SHARE) else v for k, v in row.items()}


def _to_csv(rows: Sequence[PredictionRow]) -> bytes:
    """One cell per value: the classes as ``label_1``, ``probability_1``, ``label_2``..."""
    most = max((len(row["labels"]) for row in rows), default=0)
    shares = [SHARE + stream for stream in _streams(rows)]
    ranks = range(1, most + 1)
    header = [name for rank in ranks for name in (f"label_{rank}", f"probability_{rank}")]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", *header, *shares, "streams", "error"])
    for row in rows:
        pairs = list(zip(row["labels"], row["probabilities"], strict=True))
        pairs += [("", "")] * (most - len(pairs))
        classes = [value for pair in pairs for value in pair]
        given = ["" if row["error"] else row[share] for share in shares]
        writer.writerow([row["path"], *classes, *given, row["streams"], row["error"]])
    return text.getvalue().encode()


def _to_json(rows: Sequence[PredictionRow]) -> bytes:
    return json.dumps(list(rows), indent=1).encode()


def _to_parquet(rows: Sequence[PredictionRow]) -> bytes:
    fields: dict[str, Any] = dict(SCHEMA)
    fields |= {SHARE + stream: pa.float64() for stream in _streams(rows)}
    if rows and "embedding" in rows[0]:
        fields["embedding"] = pa.list_(pa.float32())
    schema = pa.schema(list(fields.items()))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _streams(rows: Sequence[PredictionRow]) -> list[str]:
    return [key.removeprefix(SHARE) for key in (rows[0] if rows else {}) if key.startswith(SHARE)]

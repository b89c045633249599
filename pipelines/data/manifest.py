"""The manifest: one row per video, with its labels, its split and its group."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import pyarrow as pa

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
    ]
)


def _file_state(path: str) -> list[int] | None:
    """Size in bytes and modification time in nanoseconds, or None for a file that is not there."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _digest(*parts: object) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(json.dumps(part, ensure_ascii=True).encode())
        sha.update(b"\n")
    return sha.hexdigest()


@dataclass(frozen=True)
class Video:
    """One video of a data set.

    Args:
        id: unique name within the data set; the path below its root, with forward slashes.
        path: absolute path of the file.
        labels: class names; exactly one in a single-label set.
        split: ``train``, ``val`` or ``test``.
        group: clips that stay together (a source video, a person); never in two splits.
    """

    id: str
    path: str
    labels: tuple[str, ...]
    split: Split
    group: str

    def stamp(self) -> str:
        """A digest of the file's path, size and modification time.

        Artifacts are stored under this name, so a changed file is extracted again.
        """
        return _digest(self.path, _file_state(self.path))[:32]


@dataclass(frozen=True)
class Manifest:
    """A data set with its splits.

    Args:
        videos: every video, in the order of the data set.
        classes: class names, in the order of the networks' outputs.
        multi_label: whether a video may have several labels, or none.
        name: name of the data set; for reports.
        grouping: origin of the groups; for reports.
    """

    videos: tuple[Video, ...]
    classes: tuple[str, ...]
    multi_label: bool
    name: str
    grouping: str = ""

    def split(self, name: Split) -> tuple[Video, ...]:
        """The videos of one split, in order."""
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is not one of {', '.join(SPLITS)}")
        return tuple(video for video in self.videos if video.split == name)

    def targets(self, video: Video) -> tuple[int, ...]:
        """Indices into ``classes`` of a video's labels, ascending."""
        return tuple(sorted(self._class_index[label] for label in video.labels))

    @cached_property
    def _class_index(self) -> Mapping[str, int]:
        return {name: index for index, name in enumerate(self.classes)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of classes, ids, labels, splits, groups and every file's size and time.

        Independent of the order of rows and of the data set's location. A missing file counts as
        missing: when it appears, the fingerprint changes.
        """
        rows = sorted(
            [v.id, sorted(v.labels), v.split, v.group, _file_state(v.path)] for v in self.videos
        )
        return _digest(self.classes, self.multi_label, *rows)

    def to_table(self) -> pa.Table:
        """Columns id, path, labels, split, group; the other fields are in the metadata."""
        names = ("classes", "multi_label", "name", "grouping")
        about = {name: getattr(self, name) for name in names}
        columns = {name: [getattr(v, name) for v in self.videos] for name in _SCHEMA.names}
        return pa.table(columns, schema=_SCHEMA.with_metadata({"manifest": json.dumps(about)}))

    @classmethod
    def from_table(cls, table: pa.Table) -> Manifest:
        """The inverse of :meth:`to_table`.

        Raises:
            ValueError: the table was not written by :meth:`to_table`.
        """
        metadata = table.schema.metadata or {}
        if b"manifest" not in metadata or table.schema.names != _SCHEMA.names:
            raise ValueError(f"not the table of a manifest: columns {table.schema.names}")
        about = json.loads(metadata[b"manifest"])
        videos = tuple(
            Video(**{**row, "labels": tuple(row["labels"])}) for row in table.to_pylist()
        )
        classes, grouping = tuple(about["classes"]), about.get("grouping", "")
        return cls(videos, classes, about["multi_label"], about["name"], grouping)

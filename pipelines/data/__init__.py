"""Readers of labeled videos: from a path and a format to a checked manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from actors.errors import UserError, nearest
from pipelines.data.ccv import list_ccv
from pipelines.data.folders import list_folders
from pipelines.data.hmdb51 import list_hmdb51
from pipelines.data.listing import Listing, build_manifest
from pipelines.data.manifest import Manifest, Video
from pipelines.data.splits import SplitSettings, check_settings
from pipelines.data.tables import list_table
from pipelines.data.ucf101 import list_ucf101

FORMATS: dict[str, Callable[[Path, SplitSettings], Listing]] = {
    "folders": list_folders,
    "csv": list_table,
    "ucf101": list_ucf101,
    "hmdb51": list_hmdb51,
    "ccv": list_ccv,
}
"""Format name -> function that lists a data set's clips."""

NUMBERED = ("ucf101", "hmdb51")
"""Formats with official splits that are numbered."""

__all__ = ["FORMATS", "Manifest", "SplitSettings", "Video", "read_dataset", "refuse_number"]


def read_dataset(
    path: str | os.PathLike[str], format: str, *, splits: SplitSettings, seed: int
) -> Manifest:
    """Reads a data set and splits it into training, validation and test clips.

    All mistakes in a data set except in the contents of media files are found here, before any
    work starts. The same files, settings and seed give the same manifest.

    Args:
        path: the data set's folder, or its table.
        format: a key of :data:`FORMATS`.
        splits: how to make the splits that the data set does not define.
        seed: selects one of several equally good splits.

    Raises:
        UserError: the data set cannot be used; the message says why, where, and what to do.
    """
    if format not in FORMATS:
        raise UserError(
            f"unknown format {format!r}{nearest(format, FORMATS)} (one of {', '.join(FORMATS)})"
        )
    check_settings(splits)
    if format not in NUMBERED:
        refuse_number(splits, f"the format {format!r}")
    root = Path(os.path.abspath(os.path.expanduser(path)))
    if not root.exists():
        raise UserError(f"{root} does not exist; give the path of the data set with --data")
    if root.is_dir() and not any(root.iterdir()):
        raise UserError(f"{root} is an empty folder; give the path of the data set with --data")
    return build_manifest(FORMATS[format](root, splits), splits=splits, seed=seed)


def refuse_number(splits: SplitSettings, what: str) -> None:
    """Refuses the number of a split for data without numbered splits.

    Args:
        what: the data, such as ``the format 'csv'``.

    Raises:
        UserError: the number is not the default.
    """
    if splits.number != SplitSettings.number:
        raise UserError(
            f"splits.number is {splits.number!r}, but {what} has no numbered splits "
            f"(only {' and '.join(NUMBERED)} have); leave it out"
        )

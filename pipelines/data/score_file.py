"""Reads the scores of any model from an .npz file; a mistake in it is a message of one line.

The file holds one array `<stream>_scores` (N, C) per stream, of logits or probabilities, and
`labels`: (N,) class indices, or (N, C) zeros and ones of multi-label clips. It may hold
`class_names` (C,), `video_ids` (N,), `groups` (N,), and `<stream>_present` (N,) where a stream is
absent from some clips.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.errors import UserError, nearest
from trainers.refinement.score_streams import Given, score_table
from trainers.table import Table
from trainers.targets import Targets, shown

SCORES, PRESENT = "_scores", "_present"
UCF_GROUP = r"_(g\d+)_c\d+"
"""The group in UCF-101's names: v_Archery_g03_c05."""


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """The contents of a file.

    Args:
        table: the streams' scores in double precision, with targets, groups, and the video ids
            where the file has them.
        given: whether these are logits or probabilities.
        classes: C names.
        grouped_by: the origin of the groups, as text.
    """

    table: Table
    given: Given
    classes: tuple[str, ...]
    grouped_by: str

    @property
    def multi_label(self) -> bool:
        """Whether a clip may have several classes."""
        return self.table.multi_label


def read_score_file(path: Path, *, groups: str | None = None, given: str = "auto") -> ScoreFile:
    """Reads and checks a file.

    Args:
        groups: name of an array in it, or a pattern with one (group) for `video_ids`; None: the
            array `groups` if there is one, else UCF-101's gNN, else each clip is its own group.
        given: ``logits``, ``probabilities``, or ``auto`` (by their values).

    Raises:
        UserError: the file is missing, not an .npz file, incomplete or inconsistent.
    """
    arrays = _load(path)
    scores = _scores(arrays, path)
    n, c = next(iter(scores.values())).shape
    targets = _targets(arrays, path, n, c)
    names, by = _groups(arrays, path, n, groups)
    if len(np.unique(names)) < 2:
        raise UserError(
            f"{path}: all {n} clips are in one group ({by}), so nothing can be held out; "
            "give other groups with --groups"
        )
    classes = _strings(arrays, "class_names", c, path) or tuple(map(str, range(c)))
    kind = _given(scores, given, path, multi_label=targets.multi_label)
    table = score_table(scores, targets, groups=names)
    ids = _strings(arrays, "video_ids", n, path)
    if ids is not None:
        table = replace(table, ids=np.array(ids))
    return ScoreFile(table, kind, classes, by)


UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, MemoryError)
"""Exceptions of NumPy and zipfile for damaged, encrypted and oversized members."""


def _load(path: Path) -> dict[str, NDArray]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; give an .npz file with scores")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not an .npz file; numpy.savez writes one")
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        why = "it holds Python objects, which are not read" if "pickle" in str(error) else error
        raise UserError(f"{path} cannot be read as .npz: {why}") from error


def _scores(arrays: Mapping[str, NDArray], path: Path) -> dict[str, NDArray[np.float64]]:
    streams = [name.removesuffix(SCORES) for name in arrays if name.endswith(SCORES)]
    if not streams:
        raise UserError(f"{path} has no array NAME{SCORES}; it has {', '.join(arrays) or 'none'}")
    shapes = {stream: arrays[stream + SCORES].shape for stream in streams}
    first = shapes[streams[0]]
    for stream, shape in shapes.items():
        if len(shape) != 2 or 0 in shape:
            raise UserError(f"{path}: {stream}{SCORES} must be (clips, classes), it is {shape}")
        if shape != first:
            raise UserError(
                f"{path}: {stream}{SCORES} is {shape}, but {streams[0]}{SCORES} is {first}"
            )
    found = {stream: _one(arrays, stream, path) for stream in streams}
    nowhere = np.flatnonzero(np.all([np.isnan(one).all(1) for one in found.values()], axis=0))
    if len(nowhere):
        raise UserError(f"{path}: the clips in rows {shown(nowhere)} have no score of any stream")
    return found


def _one(arrays: Mapping[str, NDArray], stream: str, path: Path) -> NDArray[np.float64]:
    values = arrays[stream + SCORES]
    if values.dtype.kind not in "fiu":
        raise UserError(f"{path}: {stream}{SCORES} must be numbers, it is {values.dtype}")
    scores = values.astype(np.float64)
    there = arrays.get(stream + PRESENT, np.ones(len(scores), bool))
    if there.shape != (len(scores),) or not np.isin(there, (0, 1)).all():
        raise UserError(
            f"{path}: {stream}{PRESENT} must be {len(scores)} of true or false, "
            f"it is {there.dtype} {there.shape}"
        )
    scores[~there.astype(bool)] = np.nan
    wrong = np.flatnonzero(there.astype(bool) & ~np.isfinite(scores).all(1))
    if len(wrong):
        raise UserError(
            f"{path}: {stream}{SCORES} has NaN or infinity in rows {shown(wrong)}; where the clips "
            f"lack the stream, mark them in an array {stream}{PRESENT}"
        )
    return scores


def _targets(arrays: Mapping[str, NDArray], path: Path, n: int, c: int) -> Targets:
    if "labels" not in arrays:
        hint = nearest("labels", arrays)
        raise UserError(f"{path} has no array labels; it has {', '.join(arrays)}{hint}")
    labels = arrays["labels"]
    if labels.ndim == 2:
        if labels.shape != (n, c):
            raise UserError(f"{path}: labels are {labels.shape}, the scores {(n, c)}")
        wrong = np.flatnonzero(~np.isin(labels, (0, 1)).all(1))
        if len(wrong):
            raise UserError(f"{path}: labels of several classes must be 0 or 1; rows "
                            f"{shown(wrong)} hold other values")  # fmt: skip
        return Targets.from_dense(labels, multi_label=True)
    if labels.shape != (n,):
        raise UserError(f"{path}: labels are {labels.shape}, the scores {(n, c)}")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: labels must be class indices, they are {labels.dtype}")
    wrong = np.flatnonzero((labels < 0) | (labels >= c))
    if len(wrong):
        raise UserError(
            f"{path}: labels must be in 0..{c - 1}, but row {wrong[0]} has {labels[wrong[0]]} "
            f"({len(wrong)} such rows)"
        )
    return Targets.from_classes(labels, c)


def _strings(
    arrays: Mapping[str, NDArray], name: str, length: int, path: Path
) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape != (length,):
        raise UserError(f"{path}: {name} is {values.shape}, it must be ({length},)")
    return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist())


def _groups(
    arrays: Mapping[str, NDArray], path: Path, n: int, groups: str | None
) -> tuple[NDArray, str]:
    """(N,) groups, and where they come from."""
    if groups is None and "groups" in arrays:
        groups = "groups"
    if groups is not None and groups in arrays:
        return np.array(_strings(arrays, groups, n, path)), f"array {groups}"
    ids = _strings(arrays, "video_ids", n, path)
    if groups is None:
        found = [re.search(UCF_GROUP, text) for text in ids or ()]
        if found and all(found):
            return np.array([match[1] for match in found if match]), "gNN of the video ids"
        return np.arange(n), "each clip is its own group"
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise UserError(
            f"--groups {groups}: not an array of {path}, and not a pattern: {error}"
            f"{nearest(groups, arrays)}"
        ) from error
    if pattern.groups != 1:
        raise UserError(
            f"--groups {groups}: not an array of {path}, and not a pattern with one (group)"
            f"{nearest(groups, arrays)}"
        )
    if ids is None:
        raise UserError(f"--groups {groups} is for the video ids, but {path} has no video_ids")
    missing = [text for text in ids if not pattern.search(text)]
    if missing:
        raise UserError(f"--groups {groups} is not found in {missing[0]} ({len(missing)} such ids)")
    return np.array([match[1] for text in ids if (match := pattern.search(text))]), "the video ids"


def _given(
    scores: Mapping[str, NDArray[np.float64]], given: str, path: Path, *, multi_label: bool
) -> Given:
    """What the scores are; single-label probabilities sum to 1."""
    values = [one[~np.isnan(one).any(1)] for one in scores.values()]
    fits = all(((one >= 0) & (one <= 1 + 1e-6)).all() for one in values)
    fits = fits and (multi_label or all(np.allclose(v.sum(1), 1, atol=1e-3) for v in values))
    if given == "logits" or (given == "auto" and not fits):
        return "logits"
    if not fits:
        asked = "be in 0..1" if multi_label else "be in 0..1 with sum 1 per clip"
        raise UserError(
            f"{path}: probabilities must {asked}; give --given logits if they are logits"
        )
    return "probabilities"

"""Splits clips into training, validation and test: by group, stratified by class, repeatable."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.errors import UserError

# a second pass corrects most effects of the first one's order; two or three passes converge
_PASSES = 5

MOST_TAKEN = 0.4
"""Largest share of the clips that a further group may bring the split to."""


@dataclass(frozen=True)
class SplitSettings:
    """How a data set is split into training, validation and test clips."""

    number: int = 1
    """Which of a data set's official splits to use (UCF-101 and HMDB-51: 1, 2 or 3)."""

    group_pattern: str | None = r"_(g\d+)_c\d+"
    """Regular expression that is searched in a clip's id; its first parentheses match the clip's
    group. A group is never in two splits. A clip without a match is its own group. The default
    finds g07 in v_Bend_g07_c02.avi. null: every clip is its own group."""

    test_pattern: str | None = None
    """Regular expression that is searched in a clip's id; the clips that match are the test split,
    whatever splits the data set defines."""

    folds: int | None = None
    """Number of folds to cut all clips into, by group, whatever splits the data set defines; as
    many folds as groups leave one group out."""

    fold: int = 1
    """Which fold is the test split, from 1 to `folds`."""

    test_share: float = 0.2
    """Share of the clips that becomes the test split of a data set that has none."""

    validation_share: float = 0.15
    """Share of the training clips that becomes the validation split of a data set that has none."""


def check_settings(settings: SplitSettings) -> None:
    """Refuses settings that fit no data set.

    Raises:
        UserError: a share or a fold is out of range, a pattern is not a regular expression, or both
            ways of choosing the test split are set.
    """
    for name in ("test_share", "validation_share"):
        share = getattr(settings, name)
        if not 0 < share < 1:
            raise UserError(f"splits.{name} is {share!r}; it must be between 0 and 1, such as 0.15")
    if settings.folds is not None and settings.test_pattern is not None:
        raise UserError(
            f"splits.folds ({settings.folds!r}) and splits.test_pattern "
            f"({settings.test_pattern!r}) both select the test split; give one of them"
        )
    if settings.folds is not None and settings.folds < 2:
        raise UserError(f"splits.folds is {settings.folds!r}; there must be at least 2 folds")
    if settings.folds is not None and not 1 <= settings.fold <= settings.folds:
        raise UserError(
            f"splits.fold is {settings.fold!r}; with splits.folds={settings.folds} "
            f"it must be one of 1 to {settings.folds}"
        )
    if settings.folds is None and settings.fold != SplitSettings.fold:
        raise UserError(f"splits.fold is {settings.fold!r}, but splits.folds is not set; set both")
    if settings.group_pattern is not None:
        pattern = compile_pattern(settings.group_pattern, "splits.group_pattern")
        if pattern.groups == 0:
            raise UserError(
                f"splits.group_pattern {settings.group_pattern!r} has no parentheses; put them "
                r"around the part that names the group, as in '_(g\d+)_c\d+'"
            )
    if settings.test_pattern is not None:
        compile_pattern(settings.test_pattern, "splits.test_pattern")


def check_number(number: int, count: int = 3) -> None:
    """Refuses the number of an official split that does not exist."""
    if not 1 <= number <= count:
        raise UserError(
            f"splits.number is {number!r}; this data set has the official splits 1 to {count}"
        )


def compile_pattern(pattern: str, setting: str) -> re.Pattern[str]:
    """Compiles a user's regular expression; the error names the setting."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{setting} {pattern!r} is not a regular expression: {error}") from error


def find_group(clip_id: str, pattern: re.Pattern[str] | None) -> str:
    """The group that a clip's id names, or the id itself."""
    match = pattern.search(clip_id) if pattern is not None else None
    return match.group(1) or clip_id if match else clip_id


@dataclass(frozen=True)
class _Groups:
    """Groups in the order in which they are tried, and their numbers of clips by class.

    ``counts`` has shape (groups, classes + 1); the last column counts all clips, so that clips
    without a label are spread evenly too.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def weight(self) -> NDArray[np.float64]:
        """1 / total² per class: shares are compared, so rare classes have the same weight."""
        return 1.0 / np.maximum(self.counts.sum(axis=0), 1.0) ** 2


def _tally(labels: Sequence[Sequence[str]], groups: Sequence[str], seed: int) -> _Groups:
    """Counts clips per group and class, the groups in the seed's order.

    The order is by a hash of seed and name, so that adding or removing a clip does not change the
    order of the others.
    """
    classes = {name: i for i, name in enumerate(sorted({n for row in labels for n in row}))}
    names = sorted(set(groups), key=lambda n: hashlib.sha256(f"{seed}/{n}".encode()).digest())
    rows = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(rows), len(classes) + 1), np.int64)
    for row, group in zip(labels, groups, strict=True):
        counts[rows[group], -1] += 1
        for name in row:
            counts[rows[group], classes[name]] += 1
    return _Groups(tuple(names), counts)


def cut_share(
    labels: Sequence[Sequence[str]],
    groups: Sequence[str],
    *,
    share: float,
    seed: int,
    every_class: bool,
    least: int = 1,
) -> frozenset[str]:
    """Chooses whole groups that hold about `share` of the clips of every class.

    Greedy, in the seed's order: a group is taken (in later passes: or returned) if that brings the
    shares of the classes, in sum of squares, closer to `share`. At least one group is taken, and
    never all clips of a class.

    Args:
        labels: each clip's class names.
        groups: each clip's group.
        share: target share of each class's clips, between 0 and 1.
        seed: order in which groups are tried.
        every_class: also take a group for each class without any, if one can be spared.
        least: smallest number of groups to take, if as many remain and at most `MOST_TAKEN` of the
            clips are taken: choices made on a single group (one person, one film) fit that group.

    Returns:
        The names of the groups taken; empty when none can be spared.
    """
    tally = _tally(labels, groups, seed)
    total = tally.counts.sum(axis=0)
    want, weight = share * total, tally.weight
    taken = np.zeros(total.shape, np.int64)
    chosen: set[int] = set()

    def after(row: int) -> NDArray[np.int64]:
        """Clips that are taken after a group changes sides."""
        return taken - tally.counts[row] if row in chosen else taken + tally.counts[row]

    def cost(row: int) -> float:
        """Change of the sum of squares; infinite if the group cannot be spared."""
        then = after(row)
        if np.any(then >= total):
            return float("inf")
        return float((weight * ((then - want) ** 2 - (taken - want) ** 2)).sum())

    def move(row: int) -> None:
        nonlocal taken
        taken = after(row)
        chosen.symmetric_difference_update({row})

    for _ in range(_PASSES):
        before = set(chosen)
        for row in range(len(tally.names)):
            if cost(row) < -1e-12:
                move(row)
        if chosen == before:
            break
    # all clips count as a class (the last column), so at least one group is searched for
    for column in np.argsort(total, kind="stable"):
        must = every_class or column == len(total) - 1
        if must and taken[column] == 0:
            rows = [int(r) for r in np.flatnonzero(tally.counts[:, column]) if r not in chosen]
            best = min(rows, key=cost, default=None)
            if best is not None and cost(best) < float("inf"):
                move(best)
    while len(chosen) < least and len(tally.names) - len(chosen) > least:
        rows = [r for r in range(len(tally.names)) if r not in chosen]
        best = min(rows, key=cost)
        if cost(best) == float("inf") or after(best)[-1] > MOST_TAKEN * total[-1]:
            break
        move(best)
    return frozenset(tally.names[row] for row in chosen)


def cut_fold(
    labels: Sequence[Sequence[str]], groups: Sequence[str], *, folds: int, fold: int, seed: int
) -> frozenset[str]:
    """The groups of one of `folds` folds of about equal size and similar shares of the classes.

    From the largest group on, each goes to the fold that has the least of the group's classes. The
    folds of one seed are disjoint and together hold every group.

    Raises:
        UserError: fewer groups than folds.
    """
    tally = _tally(labels, groups, seed)
    if len(tally.names) < folds:
        raise UserError(
            f"splits.folds is {folds}, but the clips are in only {len(tally.names)} groups; "
            f"use at most {len(tally.names)} folds, or another splits.group_pattern"
        )
    weight = tally.weight
    held = np.zeros((folds, tally.counts.shape[1]), np.float64)
    homes = []
    biggest_first = np.argsort(-tally.counts[:, -1], kind="stable")
    for counts in tally.counts[biggest_first]:
        crowded = held @ (counts * weight)
        # for equal loads the fold with the fewest clips, so that no fold stays empty
        home = int(np.lexsort((held[:, -1], np.round(crowded, 12)))[0])
        held[home] += counts
        homes.append(home)
    return frozenset(tally.names[row] for row in biggest_first[np.array(homes) == fold - 1])

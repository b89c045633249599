"""From the clips that a data set lists to a manifest: groups, splits and common checks."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from actors.errors import UserError
from pipelines.data.manifest import Manifest, Split, Video
from pipelines.data.media import first_few
from pipelines.data.splits import (
    SplitSettings,
    compile_pattern,
    cut_fold,
    cut_share,
    find_group,
)


@dataclass(frozen=True)
class Entry:
    """A clip as a data set lists it.

    Args:
        id: unique name, the path below the data set's root with forward slashes.
        path: absolute path of the file.
        labels: class names.
        where: where it is listed, for messages, such as ``clips.csv line 7``.
        split: the split that the data set defines, or None.
        group: the group that the data set defines; None: found by `SplitSettings.group_pattern`.
    """

    id: str
    path: str
    labels: tuple[str, ...]
    where: str
    split: Split | None = None
    group: str | None = None


@dataclass(frozen=True)
class Listing:
    """The result of a format's reader.

    Args:
        entries: the clips, in order.
        classes: class names in the order of their indices.
        multi_label: whether a clip may have several labels.
        name: name of the data set.
        published: its splits are a published protocol and are used unchanged, even if a group that
            was found by a pattern is in two of them.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    multi_label: bool
    name: str
    published: bool = False


def build_manifest(listing: Listing, *, splits: SplitSettings, seed: int) -> Manifest:
    """Groups the clips, makes the missing splits, and checks the result.

    Raises:
        UserError: a clip is listed twice, a class is too small, a group is in two splits, a label
            has no training clip, or no split can be made.
    """
    _check_classes(listing)
    _check_duplicates(listing.entries)
    entries = _with_groups(listing.entries, splits)
    if splits.test_pattern is not None:
        entries = _test_by_pattern(entries, splits.test_pattern)
    elif splits.folds is not None:
        entries = _test_by_fold(entries, splits, seed)
    else:
        if not listing.published:
            _check_groups(entries)
        if not any(entry.split == "test" for entry in entries):
            entries = _cut_test(entries, splits.test_share, seed)
    entries = [replace(entry, split=entry.split or "train") for entry in entries]
    _check_labels(entries, listing.classes)
    if not any(entry.split == "val" for entry in entries):
        # The same folds or pattern give the same validation clips in every version, so that
        # figures can be compared: one held-out group is enough.
        least = 1 if splits.folds is not None or splits.test_pattern is not None else 2
        entries = _cut_validation(entries, splits.validation_share, seed, least=least)
    videos = tuple(
        Video(e.id, e.path, e.labels, e.split or "train", e.group or e.id) for e in entries
    )
    grouping = _grouping(listing, splits)
    return Manifest(videos, listing.classes, listing.multi_label, listing.name, grouping)


def _grouping(listing: Listing, splits: SplitSettings) -> str:
    """The origin of the groups, as text."""
    origins = []
    if any(entry.group for entry in listing.entries):
        origins.append(f"as {listing.name} has them" if listing.published else "from the table")
    others = [entry.id for entry in listing.entries if not entry.group]
    if splits.group_pattern is not None:
        pattern = compile_pattern(splits.group_pattern, "splits.group_pattern")
        found = sum(pattern.search(name) is not None for name in others)
        if found:
            less = "" if found == len(others) else f"; {len(others) - found} clips without it"
            origins.append(f"from file names by {splits.group_pattern}{less}")
    return ", ".join(origins) or "none: each clip its own"


def _check_classes(listing: Listing) -> None:
    if len(listing.classes) < 2 and not listing.multi_label:
        only = f"only the class {listing.classes[0]!r}" if listing.classes else "no class"
        raise UserError(f"{listing.name} has {only}; a classifier needs at least two")
    counts = Counter(label for entry in listing.entries for label in entry.labels)
    single = [name for name in listing.classes if counts[name] == 1]
    if single:
        where = next(e.where for e in listing.entries if single[0] in e.labels)
        raise UserError(
            f"a class with one clip cannot be both trained and tested: {first_few(single)} "
            f"(the first: {where}); add clips or leave the class out"
        )


def _check_duplicates(entries: Sequence[Entry]) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        first = seen.setdefault(os.path.realpath(entry.path), entry)
        if first is entry:
            continue
        if first.split != entry.split:
            raise UserError(
                f"the same clip is in two splits: {entry.id} is {first.split} in {first.where} "
                f"and {entry.split} in {entry.where}; keep one of the two"
            )
        raise UserError(
            f"the same clip is listed twice: {entry.id} in {first.where} and in {entry.where}; "
            "keep one of the two (several labels of one clip are joined by '|' in a table)"
        )


def _with_groups(entries: Sequence[Entry], splits: SplitSettings) -> list[Entry]:
    pattern = None
    if splits.group_pattern is not None:
        pattern = compile_pattern(splits.group_pattern, "splits.group_pattern")
    return [replace(e, group=e.group or find_group(e.id, pattern)) for e in entries]


def _check_groups(entries: Sequence[Entry]) -> None:
    first: dict[str | None, Entry] = {}
    for entry in entries:
        other = first.setdefault(entry.group, entry)
        if other.split != entry.split:
            raise UserError(
                f"group {entry.group!r} is in two splits: {other.split} in {other.where} and "
                f"{entry.split} in {entry.where}; clips of one source in training and test make "
                "the figures too high: put the whole group into one split, or set "
                "splits.group_pattern if these clips are unrelated"
            )


def _test_by_pattern(entries: Sequence[Entry], text: str) -> list[Entry]:
    pattern = compile_pattern(text, "splits.test_pattern")
    matches = [pattern.search(entry.id) is not None for entry in entries]
    if not any(matches) or all(matches):
        what = "every clip" if all(matches) else "no clip"
        ids = first_few([entry.id for entry in entries], 3)
        raise UserError(
            f"splits.test_pattern {text!r} matches {what}; it is searched in the ids of the "
            f"clips, which look like {ids}"
        )
    cut = [
        replace(entry, split="test" if match else "train")
        for entry, match in zip(entries, matches, strict=True)
    ]
    sides: dict[str | None, Entry] = {}
    for entry in cut:
        other = sides.setdefault(entry.group, entry)
        if other.split != entry.split:
            raise UserError(
                f"splits.test_pattern {text!r} cuts through group {entry.group!r}: {other.id} "
                f"becomes {other.split}, {entry.id} {entry.split}; choose whole groups, or "
                "another splits.group_pattern"
            )
    return cut


def _test_by_fold(entries: Sequence[Entry], splits: SplitSettings, seed: int) -> list[Entry]:
    assert splits.folds is not None
    labels, groups = _columns(entries)
    test = cut_fold(labels, groups, folds=splits.folds, fold=splits.fold, seed=seed)
    return [replace(e, split="test" if e.group in test else "train") for e in entries]


def _columns(entries: Sequence[Entry]) -> tuple[list[tuple[str, ...]], list[str]]:
    return [entry.labels for entry in entries], [entry.group or entry.id for entry in entries]


def _cut(
    entries: Sequence[Entry],
    name: Split,
    share: float,
    seed: int,
    *,
    every_class: bool,
    least: int = 1,
) -> list[Entry]:
    """Moves about a share of the training clips, in whole groups, into another split."""
    pool = [entry for entry in entries if entry.split in (None, "train")]
    labels, groups = _columns(pool)
    chosen = cut_share(labels, groups, share=share, seed=seed, every_class=every_class, least=least)
    if not chosen:
        count = len(set(groups))
        raise UserError(
            f"no {name} split can be cut from {len(pool)} clips in {count} "
            f"group{'s' if count > 1 else ''}: whichever group is taken, a class has no training "
            "clip left; add clips of other sources, name the splits in a table, or set another "
            "splits.group_pattern"
        )
    inside = {id(entry) for entry in pool if entry.group in chosen}
    return [replace(e, split=name) if id(e) in inside else e for e in entries]


def _cut_test(entries: Sequence[Entry], share: float, seed: int) -> list[Entry]:
    cut = _cut(entries, "test", share, seed, every_class=True)
    tested = {label for entry in cut if entry.split == "test" for label in entry.labels}
    missing = sorted({label for entry in cut for label in entry.labels} - tested)
    if missing:
        homes = defaultdict(set)
        for entry in cut:
            for label in entry.labels:
                homes[label].add(entry.group)
        raise UserError(
            "not enough groups to cut a test split: no group can be spared for the classes "
            + first_few([f"{name} ({len(homes[name])} group(s))" for name in missing])
            + "; add clips of other sources, name the splits in a table, or set another "
            "splits.group_pattern"
        )
    return cut


def _cut_validation(
    entries: Sequence[Entry], share: float, seed: int, *, least: int
) -> list[Entry]:
    # with another seed; the same hash order would select groups like those of the test split
    return _cut(entries, "val", share, seed + 1, every_class=False, least=least)


def _check_labels(entries: Sequence[Entry], classes: Sequence[str]) -> None:
    trained = {label for entry in entries if entry.split == "train" for label in entry.labels}
    for entry in entries:
        for label in entry.labels:
            if label not in trained:
                raise UserError(
                    f"label {label!r} is in {entry.split} but no training clip has it "
                    f"({entry.where}); add training clips of it, or leave it out of {entry.split}"
                )
    unused = [name for name in classes if name not in trained]
    if unused:
        raise UserError(f"no clip has the class {first_few(unused)}; leave it out, or add clips")

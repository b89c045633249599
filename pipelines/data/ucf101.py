"""Format `ucf101`: UCF-101 with its official lists (Soomro, Zamir and Shah, 2012).

Class folders and list files as they are unpacked: ``classInd.txt`` ("1 ApplyEyeMakeup"),
``trainlist01.txt`` ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1") and ``testlist01.txt`` (the
same without the number), three splits of them. The twenty-five groups gNN of each class are clips
of one source video; the official splits keep them together, and so does the validation cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from actors.errors import UserError
from pipelines.data.listing import Entry, Listing
from pipelines.data.manifest import Split
from pipelines.data.media import FileIndex, find_lists, lines_of, need_folder
from pipelines.data.splits import SplitSettings, check_number

_GROUP = re.compile(r"_(g\d+)_c\d+")


def list_ucf101(path: Path, splits: SplitSettings) -> Listing:
    """Lists one official split of UCF-101.

    The lists are searched in the folder, in its subfolders and in the folders next to it. A video
    that was converted to another container (``.mp4`` for ``.avi``) is found by its name.

    Raises:
        UserError: no such split, missing list files or videos, or a malformed line.
    """
    need_folder(path, "ucf101")
    check_number(splits.number)
    lists = find_lists(path, "classInd.txt", "ucfTrainTestlist")
    classes = _read_classes(lists / "classInd.txt")
    index = FileIndex(path)
    entries: list[Entry] = []
    names: tuple[tuple[Split, str], ...] = (("train", "trainlist"), ("test", "testlist"))
    for split, name in names:
        file = lists / f"{name}{splits.number:02d}.txt"
        for where, clip, label in _read_list(file, classes):
            match = _GROUP.search(clip)
            group = f"{label}/{match.group(1)}" if match else clip
            video = index.find(clip)
            entries.append(Entry(clip, video, (label,), where, split, group))
    index.raise_missing("the lists of UCF-101 name", lists)
    return Listing(tuple(entries), tuple(classes.values()), False, "UCF-101", published=True)


def _read_classes(file: Path) -> dict[str, str]:
    """Class names by their lower-case form, in the order of the official numbers."""
    numbered: dict[int, str] = {}
    for where, line in lines_of(file):
        parts = line.split()
        if len(parts) != 2 or not parts[0].isdecimal():
            raise UserError(
                f"{where}: {line!r} is not a class number and a name, as in '1 Archery'"
            )
        numbered[int(parts[0])] = parts[1]
    if sorted(numbered) != list(range(1, len(numbered) + 1)):
        raise UserError(f"{file}: the class numbers are not 1, 2, 3, …; take the official file")
    return {numbered[number].lower(): numbered[number] for number in sorted(numbered)}


def _read_list(file: Path, classes: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yields where a clip is listed, the clip, and its class.

    The class is the clip's folder; the file name may differ in spelling (folder HandstandPushups,
    files v_HandStandPushups_g01_c01.avi).
    """
    numbers = {name: number for number, name in enumerate(classes.values(), start=1)}
    for where, line in lines_of(file):
        clip, _, number = line.replace("\\", "/").partition(" ")
        label = classes.get(clip.partition("/")[0].lower())
        if label is None or "/" not in clip:
            raise UserError(f"{where}: {line!r} does not start with a class of classInd.txt")
        if number.strip() and number.strip() != str(numbers[label]):
            raise UserError(
                f"{where}: class number {number.strip()} but {label} is {numbers[label]} in "
                "classInd.txt; take both files from the same place"
            )
        yield where, clip, label

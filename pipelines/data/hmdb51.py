"""Format `hmdb51`: HMDB-51 with its official lists (Kuehne et al., ICCV 2011).

``<class>_test_split1.txt`` to ``…3.txt``, one line per clip: its file and 1 (training), 2 (test) or
0 (not used in this split). A clip's name ends in ``_<class>_f_nm_np1_fr_goo_37.avi`` (visible body
part, camera motion, number of people, viewpoint, quality, number); the part before it is the film.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from actors.errors import UserError
from pipelines.data.listing import Entry, Listing
from pipelines.data.manifest import Split
from pipelines.data.media import FileIndex, find_lists, lines_of, need_folder
from pipelines.data.splits import SplitSettings, check_number

_USE: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}
_TAIL = r"_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+$"


def list_hmdb51(path: Path, splits: SplitSettings) -> Listing:
    """Lists one official split of HMDB-51; clips that the split does not use are left out.

    The lists are searched in the folder, in its subfolders and in the folders next to it.
    A group is a film, whatever its clips show, so that its scenery is not in both training and
    validation.

    Raises:
        UserError: no such split, missing list files or videos, or a malformed line.
    """
    need_folder(path, "hmdb51")
    check_number(splits.number)
    suffix = f"_test_split{splits.number}.txt"
    lists = find_lists(path, f"*{suffix}", "testTrainMulti_7030_splits")
    files = {file.name.removesuffix(suffix): file for file in sorted(lists.glob(f"*{suffix}"))}
    index = FileIndex(path)
    entries: list[Entry] = []
    for label, file in files.items():
        for where, name, split in _read_list(file):
            if split is not None:
                clip = f"{label}/{name}"
                video = index.find(clip)
                entries.append(Entry(clip, video, (label,), where, split, film_of(name, label)))
    index.raise_missing("the lists of HMDB-51 name", lists)
    return Listing(tuple(entries), tuple(files), False, "HMDB-51", published=True)


def film_of(name: str, label: str) -> str:
    """The film that a clip was cut from; the clip's own name if it follows no rule.

    >>> film_of("RATRACE_wave_f_nm_np1_fr_goo_37.avi", "wave")
    'RATRACE'
    """
    stem = PurePosixPath(name).stem
    film = re.sub(f"_{re.escape(label)}{_TAIL}", "", stem, flags=re.IGNORECASE)
    return film or stem


def _read_list(file: Path) -> Iterator[tuple[str, str, Split | None]]:
    for where, line in lines_of(file):
        name, _, use = line.rpartition(" ")
        if not name or use not in _USE:
            raise UserError(
                f"{where}: {line!r} is not a file and 0, 1 or 2 (unused, training, test)"
            )
        yield where, name.strip(), _USE[use]

"""Finds media files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from actors.errors import UserError

# Extensions that FFmpeg's common demuxers read. They exclude text files next to the clips; whether
# a file can be used is known when it is decoded.
_PICTURES = "3gp asf avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
_SOUNDS = "aac aif aiff flac m4a mka mp3 oga ogg opus wav wma"
MEDIA = frozenset(f".{name}" for name in f"{_PICTURES} {_SOUNDS}".split())


def is_media(name: str) -> bool:
    """Whether a file's name is that of a video or a sound and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in MEDIA


def media_below(folder: Path) -> Iterator[str]:
    """Paths of all media files below a folder, relative, with forward slashes, sorted.

    Hidden folders are skipped; links to folders are followed.
    """
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = Path(parent).relative_to(folder)
        found += [(inner / name).as_posix() for name in files if is_media(name)]
    return iter(sorted(found))


def need_folder(path: Path, format: str) -> None:
    """Refuses a path that is not a folder."""
    if not path.is_dir():
        raise UserError(
            f"{path} is a file, but format {format!r} reads a folder; "
            "give the folder, or use format 'csv' for a table"
        )


def first_few(names: list[str], count: int = 5) -> str:
    """``"a, b, c and 12 more"``."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def find_lists(root: Path, pattern: str, usual: str) -> Path:
    """Finds the folder with a data set's list files: the root, a subfolder, or one next to it.

    Args:
        root: the data set's folder.
        pattern: name of a list file; may contain ``*``.
        usual: published name of the folder; searched first.

    Raises:
        UserError: no such file in any of them.
    """
    inside = sorted(p for p in root.iterdir() if p.is_dir())
    beside = sorted(p for p in root.parent.iterdir() if p.is_dir() and p != root)
    for folder in (root, root / usual, root.parent / usual, *inside, *beside):
        if os.access(folder, os.R_OK) and any(folder.glob(pattern)):
            return folder
    raise UserError(
        f"no {pattern} in {root}, nor in a subfolder or a folder next to it; unpack the published "
        f"lists to {root / usual}"
    )


def lines_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yields the location of each line and the line itself, stripped; skips empty lines."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; unpack all of the published lists") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a text file in UTF-8: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{file} line {number}", line.strip()


class FileIndex:
    """Finds listed clips (``Class/name.avi``) in a folder, or in one folder inside it.

    Upper and lower case and the extension may differ: archives and conversions change them.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._exact: dict[str, str] = {}
        self._loose: dict[str, str] = {}
        self._count = 0
        self._missing: list[str] = []
        for name in media_below(root):
            clip = "/".join(name.split("/")[-2:])
            self._exact.setdefault(clip, name)
            self._loose.setdefault(self._key(clip), name)

    @staticmethod
    def _key(clip: str) -> str:
        return os.path.splitext(clip)[0].lower()

    def find(self, clip: str) -> str:
        """Absolute path of a clip; a missing one is counted (`raise_missing`)."""
        self._count += 1
        name = self._exact.get(clip) or self._loose.get(self._key(clip))
        if name is None:
            self._missing.append(clip)
        return str(self._root / (name or clip))

    def raise_missing(self, what: str, lists: Path) -> None:
        """Refuses a folder that lacks listed clips.

        Raises:
            UserError: the number of missing clips, the first few, and classes without any clip.
        """
        if not self._missing:
            return
        present = {name.split("/")[-2].lower() for name in self._exact.values() if "/" in name}
        classes_missing = {clip.split("/")[0] for clip in self._missing}
        whole = sorted(name for name in classes_missing if name.lower() not in present)
        classes = f"; no clip at all of class {first_few(whole)}" if whole else ""
        raise UserError(
            f"{what} {self._count} clips (in {lists}), but {len(self._missing)} of them are not "
            f"below {self._root}: {first_few(self._missing, 3)}{classes}; unpack the whole data "
            "set, or use format 'folders' for a part of it"
        )

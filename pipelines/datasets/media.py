"""Which files are media, and where they lie below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from actors.errors import UserError

# Extensions that FFmpeg's common demuxers read. A name is only a first guess, made so that text
# files beside the clips don't count; whether a file can be used shows when it is decoded.
_PICTURES = "3gp asf avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
_SOUNDS = "aac aif aiff flac m4a mka mp3 oga ogg opus wav wma"
MEDIA = frozenset(f".{name}" for name in f"{_PICTURES} {_SOUNDS}".split())


def is_media(name: str) -> bool:
    """Whether a file's name is that of a video or a sound; hidden files never are."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in MEDIA


def media_below(folder: Path) -> Iterator[str]:
    """Paths of all media files below a folder, relative, with forward slashes, sorted.

    Hidden folders are left out; links to folders are followed.
    """
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = Path(parent).relative_to(folder)
        found += [(inner / name).as_posix() for name in files if is_media(name)]
    return iter(sorted(found))


def need_folder(path: Path, format: str) -> None:
    """Refuses what is no folder, for formats that are read from one."""
    if not path.is_dir():
        raise UserError(
            f"{path} is a file, but format {format!r} reads a folder; "
            "give the folder, or use format 'csv' for a table"
        )


def first_few(names: list[str], count: int = 5) -> str:
    """``"a, b, c and 12 more"``."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more

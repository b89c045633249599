"""Format `folders`: one folder per class, media files anywhere below it."""

from __future__ import annotations

from pathlib import Path

from actors.errors import UserError
from pipelines.data.listing import Entry, Listing
from pipelines.data.media import first_few, is_media, media_below, need_folder
from pipelines.data.splits import SplitSettings


def list_folders(path: Path, splits: SplitSettings) -> Listing:
    """Lists the media files of each class folder; text files and hidden files are ignored.

    Raises:
        UserError: no class folder, a class folder without media, or media outside of any.
    """
    del splits  # folders define no splits
    need_folder(path, "folders")
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    loose = sorted(p.name for p in path.iterdir() if p.is_file() and is_media(p.name))
    if not folders and not loose:
        raise UserError(f"{path} has no class folders; make one folder per class, named after it")
    if loose:
        raise UserError(
            f"{path} has {len(loose)} media file(s) outside of any class folder: "
            f"{first_few(loose)}; move each into the folder of its class"
        )
    entries: list[Entry] = []
    for folder in folders:
        names = list(media_below(folder))
        if not names:
            raise UserError(
                f"class folder {folder} has no media files; add clips or remove the folder"
            )
        for name in names:
            file = folder / name
            clip_id = f"{folder.name}/{name}"
            entries.append(Entry(clip_id, str(file), (folder.name,), str(file)))
    return Listing(tuple(entries), tuple(f.name for f in folders), False, path.name)

"""Format `ccv`: Columbia Consumer Video (Jiang et al., ICMR 2011), 20 categories, multi-label.

As published: ``trainVidID.txt`` (a YouTube id per line), ``trainLabel.txt`` (a row of 20 zeros and
ones for each of them, most with a single one, some with none), the same for test, and
``categoryName.txt``. The videos, named by their ids, are anywhere below the folder.
"""

from __future__ import annotations

from pathlib import Path

from actors.errors import UserError
from pipelines.data.listing import Entry, Listing
from pipelines.data.manifest import Split
from pipelines.data.media import find_lists, lines_of, media_below, need_folder
from pipelines.data.splits import SplitSettings

# Published order of the columns, used if categoryName.txt is missing.
CATEGORIES = (
    "Basketball",
    "Baseball",
    "Soccer",
    "IceSkating",
    "Skiing",
    "Swimming",
    "Biking",
    "Cat",
    "Dog",
    "Bird",
    "Graduation",
    "Birthday",
    "WeddingReception",
    "WeddingCeremony",
    "WeddingDance",
    "MusicPerformance",
    "NonMusicPerformance",
    "Parade",
    "Beach",
    "Playground",
)


def list_ccv(path: Path, splits: SplitSettings) -> Listing:
    """Lists CCV's training and test videos.

    A video without labels is a negative of all categories. Many of the videos are no longer on
    YouTube: a missing one stays listed and is rejected at extraction, so that every summary
    shows the share of missing videos.

    Raises:
        UserError: list files are missing or differ in length, a row is malformed, or all videos are
            missing.
    """
    del splits  # one published split
    need_folder(path, "ccv")
    lists = find_lists(path, "trainVidID.txt", "lists")
    classes = _read_classes(lists / "categoryName.txt")
    videos: dict[str, str] = {}
    for name in media_below(path):
        videos.setdefault(Path(name).stem, name)
    entries: list[Entry] = []
    names: tuple[Split, ...] = ("train", "test")
    for split in names:
        for where, video_id, labels in _read_rows(lists, split, classes):
            file = path / videos.get(video_id, f"{video_id}.mp4")
            entries.append(Entry(video_id, str(file), labels, where, split, video_id))
    if not any(entry.id in videos for entry in entries):
        raise UserError(
            f"none of the {len(entries)} videos that {lists} lists is below {path}; put them "
            f"there, named by their ids, such as {entries[0].id}.mp4"
        )
    return Listing(tuple(entries), tuple(classes), True, "CCV", published=True)


def _read_classes(file: Path) -> list[str]:
    if not file.is_file():
        return list(CATEGORIES)
    classes = [line for _, line in lines_of(file)]
    if len(set(classes)) != len(classes):
        raise UserError(f"{file}: a category is listed twice")
    return classes


def _read_rows(
    lists: Path, split: str, classes: list[str]
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Where each video is listed, its id and its labels."""
    ids = list(lines_of(lists / f"{split}VidID.txt"))
    rows = list(lines_of(lists / f"{split}Label.txt"))
    if len(ids) != len(rows):
        raise UserError(
            f"{lists / f'{split}VidID.txt'} has {len(ids)} videos, but {split}Label.txt has "
            f"{len(rows)} rows; take both files from the same place"
        )
    listed = []
    for (where, video_id), (row_where, row) in zip(ids, rows, strict=True):
        cells = row.split()
        if len(cells) != len(classes) or not set(cells) <= {"0", "1"}:
            raise UserError(
                f"{row_where}: {row!r} is not {len(classes)} zeros and ones, one per category"
            )
        labels = tuple(name for name, cell in zip(classes, cells, strict=True) if cell == "1")
        listed.append((where, video_id, labels))
    return listed

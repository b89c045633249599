"""Checks by the files' headers, before extraction, that some clip has what each stream needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.errors import MediaError, UserError
from actors.media.decode import best_pictures, open_media
from actors.media.sampling import uniform_positions
from actors.tracks import SOUND as SOUND_TRACK
from pipelines.data import Video
from pipelines.steps.console import Console
from trainers.streams.settings import StreamSettings

SOUND, PICTURES = "sound", "pictures"

FIRST = 16
"""Clips, spread over the list, that are looked at before all others: mostly one of them settles
it."""


def check_streams(
    videos: Sequence[Video], streams: Mapping[str, StreamSettings], console: Console
) -> None:
    """Looks into headers until some training clip has sound, and some has pictures.

    Where one does not, all training clips are looked at: a few milliseconds each, where extraction
    takes some hundred. A file that can't be opened says nothing; extraction will reject it.

    Raises:
        UserError: no training clip that opens has what a chosen stream needs.
    """
    wanted = {name: _needs(one) for name, one in streams.items()}
    missing, opened = set(wanted.values()), 0
    clips = [video for video in videos if video.split == "train"]
    first = uniform_positions(n=len(clips), count=min(FIRST, len(clips))) if clips else []
    order = list(dict.fromkeys([*map(int, first), *range(len(clips))]))
    with console.stage("look for streams", total=len(clips), unit="headers") as progress:
        for done, row in enumerate(order, 1):
            if not missing:
                return
            try:
                missing -= _found(clips[row].path)
                opened += 1
            except MediaError:
                continue
            progress.update(done)
    gone = [stream for stream, what in wanted.items() if what in missing]
    if opened and gone:
        raise UserError(_message(gone, wanted, opened))


def _found(path: str) -> set[str]:
    with open_media(path) as media:
        found = {SOUND} if media.streams.audio else set()
        return found | ({PICTURES} if best_pictures(media) is not None else set())


def _message(gone: Sequence[str], wanted: Mapping[str, str], opened: int) -> str:
    left = [stream for stream in wanted if stream not in gone]
    clips = f"none of the {opened} training clips has"
    if not left:
        kinds = " or ".join(dict.fromkeys(wanted[stream] for stream in gone))
        return f"{clips} {kinds}, which {_listed(gone)}; give other videos"
    # Streams that are left have one of the two kinds, so all that are gone lack the other.
    remedy = f"leave {'them' if len(gone) > 1 else 'it'} out: --streams {','.join(left)}"
    return f"{clips} {wanted[gone[0]]}, which {_listed(gone)}; {remedy}"


def _needs(settings: StreamSettings) -> str:
    return SOUND if settings.track == SOUND_TRACK else PICTURES


def _listed(streams: Sequence[str]) -> str:
    """For instance ``spatial, motion and audio need``."""
    *first, last = streams
    return f"{', '.join(first)} and {last} need" if first else f"{last} needs"

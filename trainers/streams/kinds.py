"""The kinds of streams by name, and streams made from settings."""

from __future__ import annotations

from actors.errors import UserError, nearest
from actors.tracks import TRACKS
from trainers.named import resolve
from trainers.streams.flow_stacks import FlowStacks
from trainers.streams.frames import Frames
from trainers.streams.settings import StreamSettings
from trainers.streams.spectrograms import Spectrograms
from trainers.streams.stream import Stream

KINDS: dict[str, type[Stream]] = {
    "frames": Frames,
    "flow_stacks": FlowStacks,
    "spectrograms": Spectrograms,
}
"""Values of `StreamSettings.samples`. The first kind of a track is its usual one."""


def make_stream(name: str, settings: StreamSettings) -> Stream:
    """The stream that settings describe.

    Args:
        name: the stream's name in its system.
        settings: ``samples`` names the kind; a ``package.module:function`` is called with
            (name, settings) and returns the `Stream`.

    Raises:
        UserError: there is no such track or kind, or the kind reads another track.
    """
    if ":" in settings.samples:
        return resolve(settings.samples, returns=Stream)(name, settings)
    if settings.track not in TRACKS:
        raise UserError(
            f"stream {name!r} has the track {settings.track!r}; there are {', '.join(TRACKS)}"
            f"{nearest(settings.track, TRACKS)}"
        )
    kind = _kind(name, settings)
    if kind.track != settings.track:
        raise UserError(
            f"stream {name!r}: samples {settings.samples!r} are cut from the track "
            f"{kind.track!r}, not {settings.track!r}; set track to {kind.track!r}, or samples to "
            "auto"
        )
    return kind(name, settings)


def _kind(name: str, settings: StreamSettings) -> type[Stream]:
    if settings.samples == "auto":
        return next(kind for kind in KINDS.values() if kind.track == settings.track)
    if settings.samples not in KINDS:
        known = ["auto", *KINDS]
        raise UserError(
            f"stream {name!r}: there are no samples {settings.samples!r}; choose "
            f"{', '.join(known)} or package.module:function{nearest(settings.samples, known)}"
        )
    return KINDS[settings.samples]

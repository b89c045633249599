"""Example clips with their pictures ready to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.report import images
from pipelines.report.data import ExampleClip, StreamPicture

MOST_FRAMES = 4
"""Frames shown of an example clip."""


def kinds(examples: Sequence[ExampleClip]) -> set[str]:
    """Returns the kinds of pictures that the examples have."""
    return {one.kind for clip in examples for one in clip.previews if one.picture is not None}


def seen_streams(examples: Sequence[ExampleClip]) -> set[str]:
    """Returns the streams that at least one example has; the others get no empty box."""
    shown = [one for clip in examples for one in clip.previews if one.picture is not None]
    return {stream for one in shown for stream in one.streams}


@dataclass(frozen=True)
class Picture:
    """A preview ready to show."""

    kind: str
    caption: str
    streams: Sequence[str]
    uris: list[str]
    longest_px: float = 0.0
    """Longest displacement of a flow field."""


@dataclass(frozen=True)
class Card:
    """An example clip with its pictures ready to show."""

    clip: ExampleClip
    pictures: list[Picture]


def pictures(clip: ExampleClip, seen: set[str]) -> list[Picture]:
    return [_picture(one) for one in clip.previews if seen & set(one.streams)]


def _picture(preview: StreamPicture) -> Picture:
    uris, longest, picture = [], 0.0, preview.picture
    if picture is not None and preview.kind == "pictures":
        frames = images.pick_evenly(picture, MOST_FRAMES)
        uris = [images.frame_uri(frame) for frame in frames]
    elif picture is not None and preview.kind == "flow":
        uris = [images.flow_uri(picture)]
        longest = float(np.hypot(picture[0], picture[1]).max(initial=0))
    elif picture is not None:
        uris = [images.spectrogram_uri(picture)]
    return Picture(preview.kind, preview.caption, preview.streams, uris, longest)

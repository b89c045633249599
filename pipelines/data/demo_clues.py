"""The classes of the demo videos: four clues of two values each, and which methods see which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from actors.tracks import FLOW, FRAMES, SOUND

VALUES: dict[str, tuple[str, str]] = {
    "appearance": ("disc", "cross"),
    "motion": ("up", "down"),
    "sound": ("hum", "chirp"),
    "order": ("redfirst", "bluefirst"),
}
"""Clue -> its two values. A class is one choice of each: 16 classes."""

CLUES: dict[str, dict[str, str]] = {
    "-".join(values): dict(zip(VALUES, values, strict=True)) for values in product(*VALUES.values())
}
"""Class label, such as "disc-up-hum-redfirst" -> clue -> value."""

BY_TRACK = {FRAMES: "appearance", FLOW: "motion", SOUND: "sound"}
"""Track -> the clue that its single samples show."""


def visible_clues(tracks: Iterable[str], ordered: Iterable[str] = ()) -> tuple[str, ...]:
    """The clues that a method can see; it can only guess the others.

    Args:
        tracks: tracks of the method's streams.
        ordered: the tracks among them that it sees as sequences, in the order of time.
    """
    seen = {BY_TRACK[track] for track in tracks if track in BY_TRACK}
    if FRAMES in ordered:
        seen.add("order")
    return tuple(clue for clue in VALUES if clue in seen)


def ceiling(visible: Sequence[str]) -> float:
    """Accuracy of a method that recognizes these clues without error and guesses the others.

    Each clue that it cannot see halves the accuracy, because all classes are equally frequent.
    """
    return 0.5 ** (len(VALUES) - len(visible))


def clue_agreement(predicted: Sequence[str], true: Sequence[str], clues: Sequence[str]) -> float:
    """Share of clips whose predicted class agrees with the true class in all of the given clues.

    With a method's visible clues this is the share of its ceiling that it reaches, independent of
    its guesses at the others.

    Args:
        predicted: class labels.
        true: class labels, of the same number.
        clues: the clues to compare, such as those of `visible_clues`.

    Raises:
        ValueError: no clips, different numbers of labels, or an unknown label or clue.
    """
    if not true or len(predicted) != len(true):
        raise ValueError(
            f"{len(predicted)} predicted and {len(true)} true labels; give one of each per clip"
        )
    unknown = [*({*predicted, *true} - CLUES.keys()), *(set(clues) - VALUES.keys())]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a label or clue of the demo videos")
    pairs = zip(predicted, true, strict=True)
    return sum(_agree(CLUES[p], CLUES[t], clues) for p, t in pairs) / len(true)


def _agree(one: Mapping[str, str], other: Mapping[str, str], clues: Sequence[str]) -> bool:
    return all(one[clue] == other[clue] for clue in clues)

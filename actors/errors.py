"""Exceptions: a mistake of the user, and a clip that can't be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user. The message says what is wrong, where, and what to do."""


class MediaError(Exception):
    """A clip that can't be used. It becomes a row of the `rejected` table and ends no job.

    Args:
        kind: category of the error, such as ``unreadable``, ``empty`` or ``too_large``.
        message: description of the error in this file.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns ``"; did you mean 'vgg19' or 'vgg16'?"`` for a misspelled name, or ``""``.

    Args:
        name: the unknown name.
        names: known names.
        cutoff: smallest similarity of a suggestion, 0 to 1; see `difflib.get_close_matches`.
    """
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""

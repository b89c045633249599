"""The two kinds of failure: a mistake of the user's, and a video that can't be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's. The message says what is wrong, where, and what to do."""


class MediaError(Exception):
    """A video that can't be used; becomes a row of the `rejected` table, never a crash.

    Args:
        kind: one short word to count by, such as ``unreadable``, ``empty`` or ``too_large``.
        message: what is wrong with this very file.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns ``"; did you mean 'vgg19' or 'vgg16'?"`` for a misspelt name, or ``""``."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""

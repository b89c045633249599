"""Settings that change how work is done, not what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field
from typing import Any

KEY = "neutral"


def neutral(default: Any = None, *, factory: Callable[[], Any] | None = None) -> Any:
    """A dataclass field that fingerprints leave out, because results do not depend on it.

    Args:
        default: the field's default value; immutable.
        factory: makes the default value instead.
    """
    if factory is not None:
        return field(default_factory=factory, metadata={KEY: True})
    return field(default=default, metadata={KEY: True})


def is_neutral(one: Field[Any]) -> bool:
    """Whether a field was declared with `neutral`."""
    return bool(one.metadata.get(KEY))

"""Settings that results do not depend on, such as the size of a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field
from typing import Any

KEY = "neutral"


def neutral(default: Any = None, *, factory: Callable[[], Any] | None = None) -> Any:
    """Declares a dataclass field that results do not depend on; fingerprints leave it out.

    Args:
        default: default value of the field; immutable.
        factory: function that makes the default value; it replaces `default`.
    """
    if factory is not None:
        return field(default_factory=factory, metadata={KEY: True})
    return field(default=default, metadata={KEY: True})


def is_neutral(one: Field[Any]) -> bool:
    """Whether a field was declared with `neutral`."""
    return bool(one.metadata.get(KEY))

"""Settings that results do not depend on, such as the size of a cache."""

from __future__ import annotations

from dataclasses import Field, field
from typing import Any

KEY = "neutral"


def neutral(default: Any) -> Any:
    """Declares a dataclass field that results do not depend on; fingerprints leave it out.

    Args:
        default: default value of the field; immutable.
    """
    return field(default=default, metadata={KEY: True})


def is_neutral(one: Field[Any]) -> bool:
    """Whether a field was declared with `neutral`."""
    return bool(one.metadata.get(KEY))

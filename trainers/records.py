"""Settings as JSON and back: nested frozen dataclasses of plain values."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from actors.errors import UserError, nearest

T = TypeVar("T")


def to_record(settings: Any) -> dict[str, Any]:
    """A dataclass as nested dicts of what JSON knows."""
    return asdict(settings)


def from_record(kind: type[T], record: Mapping[str, Any]) -> T:
    """The dataclass that `to_record` took apart, also after a way through JSON.

    A field that the record lacks takes its default: it came with a later version.

    Raises:
        UserError: the record has a field that `kind` does not know, or a value it refuses.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in record:
        if name not in names:
            raise UserError(
                f"{kind.__name__} has no {name!r}: it was saved by another version of Multiclue"
                f"{nearest(name, names)}"
            )
    return kind(**{name: _value(hints[name], value) for name, value in record.items()})


def _value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(arm for arm in get_args(hint) if arm is not type(None))
    if is_dataclass(hint):
        return from_record(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        return tuple(value)
    return value

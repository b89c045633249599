"""Values of settings: what YAML or the command line gave becomes what a setting holds."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

NOTHING = type(None)
TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")


def convert(value: Any, kind: Any) -> Any:
    """A value of the wanted kind.

    Args:
        value: as YAML reads it, or text of the command line.
        kind: type of the setting: int, float, bool, str, Path, Literal, tuple, list, a mapping,
            or a union of such.

    Raises:
        ValueError: it is none.
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return _first_of(value, inner)
    if origin is Literal:
        return _choice(value, inner)
    if origin in (tuple, list):
        return _sequence(value, origin, inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(value, inner)
    return _plain(value, kind)


def _first_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    """Null first and text last: both ``null`` and ``3`` are text as well."""
    for kind in sorted(kinds, key=lambda one: (one is str) - (one is NOTHING)):
        try:
            return convert(value, kind)
        except ValueError:
            continue
    raise ValueError


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    for one in choices:
        if str(one) == str(value):
            return one
    raise ValueError


def _sequence(value: Any, origin: type, inner: tuple[Any, ...]) -> Any:
    items = _from_text(value)
    if not isinstance(items, list | tuple):
        raise ValueError
    if not inner:
        return origin(items)
    if origin is list or inner[1:] == (Ellipsis,):
        return origin(convert(one, inner[0]) for one in items)
    if len(items) != len(inner):
        raise ValueError
    return tuple(convert(one, kind) for one, kind in zip(items, inner, strict=True))


def _mapping(value: Any, inner: tuple[Any, ...]) -> dict[Any, Any]:
    items = _from_text(value)
    if not isinstance(items, dict):
        raise ValueError
    of_key, of_value = inner or (Any, Any)
    return {convert(k, of_key): convert(v, of_value) for k, v in items.items()}


def _from_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError from error


def _plain(value: Any, kind: Any) -> Any:
    if kind is NOTHING:
        return _nothing(value)
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    if kind is Any or not isinstance(kind, type) or isinstance(value, kind):
        return value
    raise ValueError


def _nothing(value: Any) -> None:
    if value not in (None, "null"):
        raise ValueError


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in (*TRUE, *FALSE):
        return value.lower() in TRUE
    raise ValueError


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d_]*", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    return str(value)


_PLAIN = {
    int: _whole,
    float: _number,
    bool: _boolean,
    str: _text,
    Path: lambda value: Path(_text(value)),
}


def kind_in_words(kind: Any) -> str:
    """What a setting takes: ``a number``, ``tvl1, exact, fast or raft``, and so on."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        *first, last = map(str, inner)
        return f"{', '.join(first)} or {last}" if first else last
    if origin in (Union, types.UnionType):
        return ", or ".join(kind_in_words(one) for one in inner)
    if origin in (tuple, list):
        return f"a list such as [{', '.join(['8' if inner[:1] == (int,) else '0.5'] * 2)}]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping such as {a: 1, b: 2}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", NOTHING: "null"}
    return plain.get(kind, "text")


def choices_of(kind: Any) -> list[str]:
    """The words among which a setting's value must be, if there are such."""
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    return [word for one in get_args(kind) for word in choices_of(one)]

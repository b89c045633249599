"""Fingerprints: short names for everything that a result depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from actors.neutral import is_neutral

DIGITS = 12


def plain(value: Any) -> Any:
    """Settings as JSON values: dataclasses become dicts, tuples become lists."""
    return _plain(value, neutral=True)


def lasting(value: Any) -> Any:
    """As `plain`, without the fields declared by `actors.neutral.neutral`; an array becomes its
    dtype, shape and digest.

    Raises:
        TypeError: a value that has no unambiguous JSON form.
    """
    return _plain(value, neutral=False)


def fingerprint(*parts: Any) -> str:
    """Twelve hexadecimal digits that change with anything in `parts` that affects results.

    Raises:
        TypeError: a part holds a value that has no unambiguous JSON form.
    """
    text = json.dumps(lasting(list(parts)), sort_keys=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def weights_stamp(weights: str | None) -> list[int] | None:
    """Size and modification time (ns) of a weights file; None where `weights` names no file."""
    path = Path(weights or "").expanduser()
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None


def _plain(value: Any, *, neutral: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [f.name for f in dataclasses.fields(value) if neutral or not is_neutral(f)]
        return {name: _plain(getattr(value, name), neutral=neutral) for name in kept}
    if isinstance(value, Mapping):
        return {_key(k): _plain(v, neutral=neutral) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, neutral=neutral) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"a {type(value).__qualname__} can't be fingerprinted: {value!r}")


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"keys of a mapping must be text to be fingerprinted, got {key!r}")
    return key


def _array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if array.dtype.hasobject:
        return {"array": "object", "shape": list(array.shape), "values": array.tolist()}
    content = np.ascontiguousarray(array)
    digest = hashlib.sha256(content.tobytes()).hexdigest()
    return {"array": content.dtype.str, "shape": list(array.shape), "digest": digest}

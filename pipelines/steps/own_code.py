"""Users' own code that a step's result depends on, as digests of the files that hold it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from actors.neutral import is_neutral
from trainers.named import is_named

PACKAGES = {"actors", "trainers", "tuning", "pipelines"}
"""This project's own: a step's `version` says when their results change."""
SOURCES = {"own", "torchvision", "timm"}
"""What an encoder's name may begin with that is no module of the user's."""


def code_digests(*things: Any) -> dict[str, str]:
    """Module -> SHA-256 of its file, for the users' modules that some things name or come from.

    Nothing is imported but the packages that hold the modules. Modules that these import in turn
    are not followed.

    Args:
        things: functions, and partials of them, which stand for the modules that define them; and
            settings, or mappings and lists of settings, whose texts of the form
            ``package.module:name`` stand for these modules. Texts outside of settings, such as
            the ids of clips, and fields declared by `actors.neutral.neutral` stand for nothing.
    """
    modules = {name for thing in things for name in _modules(thing)}
    files = {name: _file(name) for name in sorted(modules)}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
        if file is not None
    }


def _modules(thing: Any) -> Iterator[str]:
    if isinstance(thing, partial):
        for one in (thing.func, *thing.args, *thing.keywords.values()):
            if callable(one):
                yield from _modules(one)
    elif callable(thing):
        yield thing.__module__ or "builtins"
    else:
        yield from (text.partition(":")[0] for text in _texts(thing))


def _texts(value: Any, *, inside: bool = False) -> Iterator[str]:
    """The names in settings; ``inside`` is set within a dataclass."""
    if isinstance(value, str):
        if inside and is_named(value):
            yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            if not is_neutral(one):
                yield from _texts(getattr(value, one.name), inside=True)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one, inside=inside)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one, inside=inside)


def _file(module: str) -> Path | None:
    """The file of a user's module; None for this project's, Python's and unknown ones."""
    package = module.partition(".")[0]
    if package in PACKAGES | SOURCES or package in sys.stdlib_module_names:
        return None
    origin = getattr(sys.modules.get(module), "__file__", None) or _found(module)
    return Path(origin) if origin and Path(origin).is_file() else None


def _found(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # no such package; of `__main__`
        return None
    return None if spec is None else spec.origin

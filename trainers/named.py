"""Functions and classes that users name as ``package.module:name`` in settings and saved models.

A name is accepted only for what it declares: a function by its return annotation, a class by its
base; so nothing else is called by mistake. Importing a module runs its code, though: names are safe
only in settings and models of people whose code one would run.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from actors.errors import UserError, nearest

__all__ = ["find_function", "is_named", "name_of", "resolve", "resolve_class"]

T = TypeVar("T")

PATTERN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_named(name: str) -> bool:
    """Whether a text has the form ``package.module:name``; nothing is imported."""
    return PATTERN.fullmatch(name) is not None


def resolve(name: str, *, returns: type[T]) -> Callable[..., T]:
    """The function that a name stands for.

    Args:
        name: ``package.module:function``.
        returns: what the function's return annotation must be, or be a subclass of.

    Raises:
        UserError: the name has another form, the module or the function is missing, or the
            annotation is missing or another.
    """
    found = find_function(name)
    wanted = returns.__name__
    try:
        declared = get_type_hints(found).get("return")
    except NameError as error:
        raise UserError(
            f"the annotations of {name} can't be read: {error}; import the names that they use "
            "outside of TYPE_CHECKING"
        ) from error
    if not isinstance(declared, type) or not issubclass(declared, returns):
        given = "no return annotation" if declared is None else f"the return annotation {declared}"
        raise UserError(
            f"{name} has {given}; declare `-> {wanted}`, or a subclass of it "
            f"({returns.__module__}.{wanted})"
        )
    return found


def find_function(name: str) -> Callable[..., Any]:
    """The function that a name stands for, whatever its annotations; see `resolve`.

    Raises:
        UserError: the name has another form, or the module or the function is missing.
    """
    found = _attribute(name)
    if not inspect.isfunction(found):
        raise UserError(f"{name} is {_kind(found)}, not a Python function")
    return found


def resolve_class(name: str, base: type[T]) -> type[T]:
    """The class that a name stands for.

    Args:
        name: ``package.module:Class``.
        base: the class, or the runtime-checkable protocol, that it must implement.

    Raises:
        UserError: the name has another form, the module or the class is missing, or the class is
            not a subclass of ``base``.
    """
    found = _attribute(name)
    if not isinstance(found, type):
        raise UserError(f"{name} is {_kind(found)}, not a class")
    if not issubclass(found, base):
        raise UserError(
            f"{name} is no {base.__name__}; derive it from {base.__module__}.{base.__name__}"
        )
    return found


def name_of(found: type) -> str:
    """The name by which `resolve_class` finds a class again.

    Raises:
        UserError: the class is local to a function, nested in a class, or of the script that runs.
    """
    name = f"{found.__module__}:{found.__qualname__}"
    if found.__module__ == "__main__" or not is_named(name):
        raise UserError(
            f"{name} can't be found by another process; define the class at the top level of a "
            "module that can be imported"
        )
    return name


def _attribute(name: str) -> Any:
    if not is_named(name):
        raise UserError(f"{name!r} is no name of the form package.module:function")
    path, _, attribute = name.partition(":")
    module = _module(path, name)
    if not hasattr(module, attribute):
        near = nearest(attribute, [one for one in vars(module) if not one.startswith("_")])
        raise UserError(f"{name}: the module {path} has no {attribute!r}{near}")
    return getattr(module, attribute)


def _module(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or path
        if path == missing or path.startswith(f"{missing}."):
            raise UserError(
                f"{name}: there is no module {missing!r}; install its package, start the job "
                "in the folder that holds it, or put that folder on PYTHONPATH"
            ) from error
        raise UserError(f"{name}: importing {path} failed, it needs {missing!r}") from error
    except ImportError as error:
        raise UserError(f"{name}: importing {path} failed: {error}") from error


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return "a class"
    return f"an object of type {type(value).__name__}"

"""Systems: one file per system, a function from settings to a tuple of steps.

Light: reading a command line imports this module and the settings of the system that it names.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, get_type_hints

from actors.errors import UserError, nearest
from trainers.named import find_function, is_named


@dataclass(frozen=True)
class SystemNames:
    """Where a system is found, as ``module:name``.

    Args:
        settings: class of its settings, in a module that is quick to import.
        function: from settings to the system.
        rows: module of the rows that pipelines/compare.py can compute, quick to import: `Members`
            and ``row_names``; None: it has no tables.
        tables: module that computes these rows: ``rows`` and ``compute_row``.
    """

    settings: str
    function: str
    rows: str | None = None
    tables: str | None = None


SYSTEMS = {
    "hybrid": SystemNames(
        "pipelines.systems.hybrid_settings:HybridSettings",
        "pipelines.systems.hybrid:hybrid",
        rows="pipelines.systems.hybrid_rows",
        tables="pipelines.systems.hybrid_tables",
    ),
}
"""The systems that come with Multiclue, by name."""

DEFAULT = "hybrid"


def settings_class(system: str) -> type:
    """The dataclass of a system's settings.

    Args:
        system: a name in `SYSTEMS`, or ``package.module:function``; that module is imported, and
            the annotation of the function's first parameter is the class.

    Raises:
        UserError: no such system, or a function without such an annotation.
    """
    if system in SYSTEMS:
        module, _, name = SYSTEMS[system].settings.partition(":")
        return getattr(importlib.import_module(module), name)
    return _annotated(system_function(system), system)


def system_function(system: str) -> Callable[..., Any]:
    """The function that makes a system.

    Args:
        system: a name in `SYSTEMS`, or ``package.module:function``.

    Raises:
        UserError: no such system.
    """
    named = SYSTEMS[system].function if system in SYSTEMS else system
    if not is_named(named):
        raise UserError(
            f"there is no system {system!r}; --system takes {', '.join(SYSTEMS)} or "
            f"package.module:function{nearest(system, SYSTEMS)}"
        )
    try:
        return find_function(named)
    except UserError as error:
        raise UserError(f"--system {error}") from error


def comparison_rows(system: str) -> ModuleType:
    """The module of the rows that a system is compared with.

    Raises:
        UserError: the system has no tables.
    """
    named = SYSTEMS.get(system)
    if named is None or named.rows is None:
        having = [name for name, one in SYSTEMS.items() if one.rows is not None]
        raise UserError(
            f"the system {system!r} has no tables to compare; --system takes {', '.join(having)}"
        )
    return importlib.import_module(named.rows)


def comparison_tables(system: str) -> ModuleType:
    """The module that computes the rows of `comparison_rows`."""
    comparison_rows(system)
    return importlib.import_module(str(SYSTEMS[system].tables))


def _annotated(function: Callable[..., Any], system: str) -> type:
    """The class that annotates a function's first parameter."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    kind = None
    if first is not None and first.annotation is not first.empty:
        alone = SimpleNamespace(__annotations__={first.name: first.annotation})
        try:
            kind = get_type_hints(alone, globalns=vars(inspect.getmodule(function)))[first.name]
        except NameError as error:
            raise UserError(
                f"--system {system}: the annotation of its first parameter can't be found: {error}"
            ) from error
    if not isinstance(kind, type) or not is_dataclass(kind):
        raise UserError(
            f"--system {system}: annotate its first parameter with the class of its settings, a "
            f"frozen dataclass, as in `def {system.partition(':')[2]}(settings: MySettings, given)`"
        )
    return kind

"""The command line of a job whose settings are one dataclass."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from actors.errors import UserError

T = TypeVar("T")


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the description's lines as they are."""


class _Parser(ArgumentParser):
    """Its mistakes are the user's, told in one line."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        cause: BaseException | None = ex
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        raise cause or UserError(" ".join(message.split()))


def parse_arguments(
    kind: type[T],
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    inputs: str | None = None,
) -> tuple[T, list[str]]:
    """The settings, and the words that are no option.

    Args:
        kind: a dataclass; every field becomes an option, its docstring the help. A switch needs
            no value, and ``--dry-run`` is ``--dry_run``.
        description: of the job, for ``--help``.
        arguments: instead of the command line's.
        inputs: what the other words are; None: there must be none.

    Raises:
        UserError: an option that does not exist, of the wrong type or out of range.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(description=description, formatter_class=_Formatter)
    if inputs is not None:
        parser.add_argument("inputs", nargs="*", help=inputs)
    parser.add_class_arguments(kind)
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = parser.instantiate(parser.parse_args(_plain_options(kind, words)))
    others = parsed.pop("inputs", None) or []
    return kind(**vars(parsed)), others


def _plain_options(kind: Any, words: Sequence[str]) -> list[str]:
    """Options as the parser knows them: underscores, and a value for every switch."""
    switches = {f"--{field.name}" for field in fields(kind) if field.type in (bool, "bool")}
    plain = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = "--" + name[2:].replace("-", "_") + equals + value
            if word in switches and following.lower() not in ("true", "false"):
                word += "=true"
        plain.append(word)
    return plain

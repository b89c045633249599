"""The command line of a job whose settings are one dataclass."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from actors.errors import UserError, nearest

T = TypeVar("T")


class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the description's lines as they are."""


class Parser(ArgumentParser):
    """An argument parser whose mistakes are the user's, told in one line.

    The docstring under each field of a settings class is the option's help.
    """

    def __init__(self, **options: Any) -> None:
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        super().__init__(formatter_class=Formatter, **options)

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        cause: BaseException | None = ex
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if cause is None and message.startswith("unrecognized arguments: --"):
            option = message.split()[2].partition("=")[0]
            known = [name for name in self._option_string_actions if name.startswith("--")]
            raise UserError(f"there is no option {option}{nearest(option, known)}")
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
    parser = Parser(description=description)
    if inputs is not None:
        parser.add_argument("inputs", nargs="*", help=inputs)
    parser.add_class_arguments(kind)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, words = _split(kind, given)
    parsed = parser.instantiate(parser.parse_args([*words, *options]))
    others = parsed.pop("inputs", None) or []
    return kind(**vars(parsed)), others


def _split(kind: Any, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options as the parser knows them, ``--name=value``, and the other words.

    They may stand in any order: argparse does not take words on both sides of an option.
    """
    switches = {f"--{field.name}" for field in fields(kind) if field.type in (bool, "bool")}
    options, words = [], []
    waiting = list(given)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name[:2] + name[2:].replace("-", "_")
        if name in ("-h", "--help") or equals:
            options.append(name + equals + value)
        elif name in switches and (not waiting or waiting[0].lower() not in ("true", "false")):
            options.append(f"{name}=true")
        elif waiting and not waiting[0].startswith("--"):
            options.append(f"{name}={waiting.pop(0)}")
        else:
            options.append(name)
    return options, words

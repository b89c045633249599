"""The command line of a job whose settings are one dataclass."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from actors.errors import UserError
from pipelines.cli.option_words import in_plain_words, type_of, with_its_option

T = TypeVar("T")

Groups = Mapping[str, Sequence[str]]
"""Heading -> the settings below it, in the short help."""


class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the description's lines as they are."""


class HelpAll(argparse._HelpAction):
    """Shows every setting."""

    def __call__(self, parser: Any, *_: Any, **__: Any) -> None:
        print(parser.format_all_help(), end="")
        parser.exit()


class Parser(ArgumentParser):
    """An argument parser whose mistakes are the user's, told in one line.

    The docstring under each field of a settings class is the option's help.

    Args:
        kind: dataclass of the settings; every field becomes an option.
        main: what ``--help`` shows; None: everything. ``--help-all`` always shows everything.
        own: options that are read elsewhere -> their help; shown first.
        inputs: what the words that are no option are.
    """

    def __init__(
        self,
        kind: Any,
        *,
        main: Groups | None = None,
        own: Mapping[str, str] | None = None,
        inputs: str | None = None,
        **options: Any,
    ) -> None:
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        self.kind, self.main, self.own = kind, main, dict(own or {})
        self.given: list[str] = []
        self.inputs = inputs
        super().__init__(formatter_class=Formatter, allow_abbrev=False, **options)
        if main is not None:
            self.add_argument("--help-all", action=HelpAll, help="Show every setting and exit.")

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        raise self.in_words(message, ex)

    def in_words(self, message: str, error: BaseException | None) -> UserError:
        """The user's mistake at the bottom of a chain of wrapped exceptions, in plain words."""
        cause = error
        while cause is not None:
            if isinstance(cause, UserError):
                return UserError(with_its_option(str(cause), self.given))
            cause = cause.__cause__ or cause.__context__
        text = " ".join(message.split())
        return UserError(in_plain_words(text, self.kind, self.names(), self.given, self._file()))

    def names(self) -> list[str]:
        """All settings that have a value of their own, such as ``spatial.optimizer.lr``."""
        known = {
            name[2:]
            for name, action in self._option_string_actions.items()
            if name.startswith("--") and action.help != argparse.SUPPRESS
        }
        groups = {name.rpartition(".")[0] for name in known}
        return sorted((known - groups) | set(self.own))

    def _file(self) -> str | None:
        files = [b for a, b in zip(self.given, self.given[1:], strict=False) if a == "--config"]
        files += [a.partition("=")[2] for a in self.given if a.startswith("--config=")]
        return files[-1] if files else None

    def format_help(self, formatter: Any = None) -> str:
        return self.format_all_help() if self.main is None else self._format_main_help(self.main)

    def format_all_help(self) -> str:
        return super().format_help()

    def _format_main_help(self, main: Groups) -> str:
        """As argparse shows options, but only these, by what they are for."""
        in_file = (
            "; all can be given in a file (--config) as well" if "config" in self.names() else ""
        )
        short = argparse.ArgumentParser(
            prog=self.prog,
            usage="%(prog)s " + ("INPUT ... " if self.inputs else "") + "[--OPTION VALUE ...]",
            description=self.description,
            epilog=f"--help-all shows every setting{in_file}.",
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=26, width=100
            ),
            add_help=False,
        )
        if self.inputs:
            short.add_argument_group("Input").add_argument("INPUT", help=self.inputs)
        defaults = self.get_defaults(skip_validation=True)
        if self.own:
            group = short.add_argument_group("Options of this job alone")
            for name, text in self.own.items():
                group.add_argument(f"--{name}", metavar="VALUE", help=_plain(text))
        for heading, names in main.items():
            group = short.add_argument_group(heading)
            for name in names:
                text = first_sentence(self._option_string_actions[f"--{name}"].help or "")
                value = defaults.get(name)
                shown = "" if value is None else f" (default: {value})"
                wanted = type_of(self.kind, name)
                if wanted is bool:  # a switch
                    group.add_argument(f"--{name}", action="store_true", help=_plain(text))
                    continue
                metavar = METAVARS.get(wanted, "VALUE")
                group.add_argument(f"--{name}", metavar=metavar, help=_plain(text + shown))
        return short.format_help()


METAVARS = {int: "N", float: "X"}


def _plain(text: str) -> str:
    """A help text on one line, that stands for itself: percent signs are no placeholders."""
    return " ".join(text.split()).replace("%", "%%")


def first_sentence(text: str) -> str:
    """What an option is, without what else there is to say of it."""
    return re.split(r"(?<=\.) +(?=[A-Z])", " ".join(text.split()))[0]


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
    own = get_type_hints(kind)
    main = [name for name, wanted in own.items() if not is_dataclass(wanted)]
    parser = Parser(kind, main={"Options": main}, inputs=inputs, description=description)
    if inputs is not None:
        parser.add_argument("inputs", nargs="*", help=inputs)
    parser.add_class_arguments(kind)
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser.given = given
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
        if name in ("-h", "--help", "--help-all"):
            options.append(word)
            continue
        name = name[:2] + name[2:].replace("-", "_")
        if equals:
            options.append(name + equals + value)
        elif name in switches and (not waiting or waiting[0].lower() not in ("true", "false")):
            options.append(f"{name}=true")
        elif waiting and not waiting[0].startswith("--"):
            options.append(f"{name}={waiting.pop(0)}")
        else:
            options.append(name)
    return options, words

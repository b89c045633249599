"""The pages of --help and --help-all."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.cli.options import Group, Option

METAVARS = {int: "N", float: "X"}


@dataclass(frozen=True)
class Section:
    """A heading and the options below it.

    Args:
        lines: option as it is written after ``--``, its metavar (None: a switch), its help.
    """

    heading: str
    lines: Sequence[tuple[str, str | None, str]]
    text: str | None = None


def page(
    sections: Iterable[Section], description: str, *, inputs: str | None = None, end: str = ""
) -> str:
    """Lays a page out as argparse does.

    Args:
        inputs: what the words that are no option are; None: there are none.
        end: last line.
    """
    parser = argparse.ArgumentParser(
        usage="%(prog)s " + ("INPUT ... " if inputs else "") + "[--OPTION VALUE ...]",
        description=description.replace("%", "%%"),
        epilog=end,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=26, width=100
        ),
        add_help=False,
    )
    if inputs:
        parser.add_argument_group("Input").add_argument("INPUT", help=_one_line(inputs))
    for section in sections:
        group = parser.add_argument_group(section.heading, section.text)
        for name, metavar, text in section.lines:
            options: dict[str, Any] = {"help": _one_line(text)}
            options |= {"metavar": metavar} if metavar else {"action": "store_true"}
            group.add_argument(f"--{name}", **options)
    return parser.format_help()


def line(name: str, option: Option, *, short: bool) -> tuple[str, str | None, str]:
    """An option's line; a short one has only the first sentence of its help."""
    text = docs_of(option.owner).get(option.field, "")
    text = first_sentence(text) if short else text
    shown = "" if option.default in (None, MISSING, "") else f" (default: {_shown(option.default)})"
    return name, _metavar(option), text + shown


def sections_of(group: Group, prefix: str = "", text: str = "") -> Iterator[Section]:
    """A section per group, the group itself first, under its dotted name.

    Args:
        prefix: dotted name of the group, ending with a dot; empty: only the groups in it.
        text: what the group is.
    """
    single = [(n, m) for n, m in group.members.items() if isinstance(m, Option)]
    if prefix and single:
        lines = [line(f"{prefix}{name}", option, short=False) for name, option in single]
        yield Section(prefix[:-1], lines, text or None)
    for name, member in group.members.items():
        if isinstance(member, Group):
            about = docs_of(group.kind).get(name, "")
            yield from sections_of(member, f"{prefix}{name}.", _one_line(about))


def first_sentence(text: str) -> str:
    """What an option is, without what else there is to say of it."""
    return re.split(r"(?<=\.) +(?=[A-Z])", " ".join(text.split()))[0]


def show(text: str) -> None:
    """Prints a page and ends the process."""
    print(text, end="")
    sys.exit(0)


def _metavar(option: Option) -> str | None:
    if option.kind is bool:
        return "true|false" if option.default is True else None
    return METAVARS.get(option.kind, "VALUE")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _one_line(text: str) -> str:
    """Text that stands for itself: percent signs are no placeholders."""
    return " ".join(text.split()).replace("%", "%%")


@cache
def docs_of(kind: type) -> Mapping[str, str]:
    """The strings that stand under the fields of a settings class, those of its bases included."""
    docs: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        docs |= _classes_in(one.__module__).get(one.__qualname__, {})
    return docs


@cache
def _classes_in(module: str) -> dict[str, dict[str, str]]:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py"):
        return {}
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return {n.name: _docs_in(n) for n in tree.body if isinstance(n, ast.ClassDef)}


def _docs_in(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for one, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(one, ast.AnnAssign)
            and isinstance(one.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            docs[one.target.id] = str(after.value.value)
    return docs

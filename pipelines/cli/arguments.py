"""The command line of a job whose settings are one dataclass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

from actors.errors import UserError
from pipelines.cli.help_pages import Section, line, page, sections_of, show
from pipelines.cli.options import Group, Option, build, group_of
from pipelines.cli.sources import Source, option_values, read_words, spread

T = TypeVar("T")


def parse_arguments(
    kind: type[T],
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    inputs: str | None = None,
) -> tuple[T, list[str]]:
    """The settings, and the words that are no option.

    Args:
        kind: a dataclass; every field becomes an option, the string under it its help. A switch
            needs no value, and ``--dry-run`` is ``--dry_run``.
        description: of the job, for ``--help``.
        arguments: instead of the command line's.
        inputs: what the other words are; None: there must be none.

    Raises:
        UserError: an option that does not exist, of the wrong type or out of range.
        SystemExit: help was asked for and shown.
    """
    group = group_of(kind)
    known = dict(group.options())
    switches = {name for name, option in known.items() if option.kind is bool}
    words = read_words(sys.argv[1:] if arguments is None else arguments, switches)
    if words.help is not None:
        show(_help(group, description, inputs, everything=words.help == "--help-all"))
    if words.inputs and inputs is None:
        raise no_option(words.inputs[0])
    members = known | dict(group.groups())
    source = Source(dict(option_values(words, members)))
    return build(group, spread(source, members, sorted(known))), list(words.inputs)


def no_option(word: str) -> UserError:
    """The refusal of a word where only options may stand."""
    return UserError(f"{word!r} is no option: options begin with --")


def _help(group: Group, description: str, inputs: str | None, *, everything: bool) -> str:
    own = {name: one for name, one in group.members.items() if isinstance(one, Option)}
    lines = [line(name, option, short=not everything) for name, option in own.items()]
    sections = [Section("Options", lines), *(sections_of(group) if everything else ())]
    end = "" if everything else "--help-all shows every setting."
    return page(sections, description, inputs=inputs, end=end)

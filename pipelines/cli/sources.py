"""Where settings are given: YAML files and the words of the command line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from actors.errors import UserError
from pipelines.cli.options import GivenValue, Group, Option
from pipelines.cli.values import kind_in_words

MANY = 5
"""Options to name at most where a name fits several; as many groups have an ``lr``."""

HELP = ("-h", "--help", "--help-all")


@dataclass(frozen=True)
class Source:
    """Settings from one place.

    Args:
        content: as YAML reads it: names (``spatial``, or dotted on the command line) -> values.
        file: the YAML file; None: the command line.
    """

    content: Mapping[str, Any]
    file: str | None = None

    def place(self, name: str) -> str:
        return f"{self.file}: {name}" if self.file else f"--{name}"

    def unknown(self, name: str, known: Iterable[str]) -> UserError:
        """The refusal of a name that no setting has."""
        if self.file:
            return UserError(f"{self.file}: there is no setting {name}{similar(name, known)}")
        near = similar(f"--{name}", [f"--{one}" for one in known])
        return UserError(f"there is no option --{name}{near}")


def read_file(path: str, option: str = "--config") -> Source:
    """The settings in a YAML file.

    Raises:
        UserError: no such file, or no settings in it.
    """
    if not Path(path).is_file():
        raise UserError(f"{option} {path}: there is no such file")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{option} {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise UserError(f"{option} {path} has no settings, such as seed: 1, but {content!r}")
    return Source({str(name): value for name, value in (content or {}).items()}, path)


def spread(
    source: Source, members: Mapping[str, Option | Group], names: Collection[str]
) -> dict[str, GivenValue]:
    """The values that a source gives, by the dotted names of their settings.

    Args:
        members: options and groups by dotted name.
        names: of all settings, for suggestions.

    Raises:
        UserError: a name that no setting has, or a group that is given a single value.
    """
    given: dict[str, GivenValue] = {}

    def visit(name: str, value: Any) -> None:
        member = members.get(name)
        if member is None:
            raise source.unknown(name, names)
        if isinstance(member, Option):
            given[name] = GivenValue(value, source.place(name))
            return
        for key, inner in mapping_of(value, source.place(name)).items():
            visit(f"{name}.{key}", inner)

    for name, value in source.content.items():
        visit(name, value)
    return given


def mapping_of(value: Any, place: str) -> Mapping[str, Any]:
    """Settings of a group: a mapping, its YAML text, or the name of a file with one.

    Raises:
        UserError: it is none of these.
    """
    found = value
    if isinstance(value, str):
        found = read_file(value, place).content if Path(value).is_file() else _yaml(value)
    if not isinstance(found, Mapping):
        raise UserError(f"{place} takes a YAML file with its settings, not {value!r}")
    return found


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def similar(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` for a name that no setting has, or where to look."""
    known = list(known)
    group, last = _parts(name)
    # What differs in the last part alone is nearer than what is spelled alike all over.
    siblings = {_parts(other)[1]: other for other in known if _parts(other)[0] == group}
    near = [siblings[one] for one in get_close_matches(last, siblings, n=2, cutoff=0.65)]
    ends = [other for other in known if _parts(other)[1] == last]
    top = name.partition(".")[0]
    ends = [other for other in ends if other.partition(".")[0] == top] or ends
    found = near or get_close_matches(name, known, n=1, cutoff=0.9) or ends[:MANY]
    if not found:
        return "; --help shows the main options, --help-all all of them"
    return f"; did you mean {' or '.join(map(repr, found))}?"


def _parts(name: str) -> tuple[str, str]:
    """The group of a setting, and its own name in it."""
    group, _, last = name.lstrip("-").rpartition(".")
    return group, last


@dataclass(frozen=True)
class Words:
    """A command line, taken apart.

    Args:
        options: dotted name -> value as text, None where there is none; in order.
        inputs: the words that are no option.
        help: ``--help`` or ``--help-all``, if it is asked for.
    """

    options: Sequence[tuple[str, str | None]]
    inputs: Sequence[str]
    help: str | None


def read_words(arguments: Sequence[str], switches: Collection[str] = ()) -> Words:
    """Takes a command line apart. Options and other words may stand in any order.

    Args:
        switches: options that are true or false and take no other word as their value.
    """
    options: list[tuple[str, str | None]] = []
    inputs, asked, waiting = [], None, list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if word in HELP:
            asked = word
        elif not word.startswith("-"):
            inputs.append(word)
        else:
            name = name[:2].lstrip("-") + name[2:].replace("-", "_")
            taken = value if equals else _next_value(waiting, name in switches)
            options.append((name, taken))
    return Words(options, inputs, asked)


def _next_value(waiting: list[str], switch: bool) -> str | None:
    if not waiting or waiting[0].startswith("--") or waiting[0] in HELP:
        return None
    if switch and waiting[0].lower() not in ("true", "false"):
        return None
    return waiting.pop(0)


def option_values(words: Words, options: Mapping[str, Option | Group]) -> Iterator[tuple[str, Any]]:
    """The options of a command line with their values; a switch without one is true.

    Raises:
        UserError: an option that needs a value has none.
    """
    for name, value in words.options:
        member = options.get(name)
        if value is None and isinstance(member, Option) and member.kind is bool:
            yield name, "true"
        elif value is None and member is not None:
            wanted = f": {kind_in_words(member.kind)}" if isinstance(member, Option) else ""
            raise UserError(f"--{name} needs a value{wanted}")
        else:
            yield name, value

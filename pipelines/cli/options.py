"""Settings classes as a tree of options, and the way back: given values become an instance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from actors.errors import UserError, nearest
from pipelines.cli.values import choices_of, convert, kind_in_words


@dataclass(frozen=True)
class Option:
    """One setting.

    Args:
        kind: type of its values.
        default: value where none is given; MISSING where one must be.
        owner: the settings class that declares it.
        field: its name there.
    """

    kind: Any
    default: Any
    owner: type
    field: str


@dataclass(frozen=True)
class Group:
    """The settings of one dataclass.

    Args:
        kind: the dataclass.
        default: the instance where nothing is given, or None: made of the fields' own defaults.
        members: its fields by name.
    """

    kind: type
    default: Any
    members: Mapping[str, Option | Group] = field(default_factory=dict)

    def options(self, prefix: str = "") -> Iterator[tuple[str, Option]]:
        """All settings below, with dotted names such as ``spatial.fit.lr``."""
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield from member.options(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", member

    def groups(self, prefix: str = "") -> Iterator[tuple[str, Group]]:
        """All groups below, with dotted names such as ``spatial.fit``."""
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield f"{prefix}{name}", member
                yield from member.groups(f"{prefix}{name}.")


@dataclass(frozen=True)
class GivenValue:
    """A value that was given to a setting.

    Args:
        place: where, for messages: ``--spatial.fit.lr``, or ``mine.yaml: spatial.fit.lr``.
    """

    value: Any
    place: str


hints_of = cache(get_type_hints)
"""Field -> type of a settings class."""


def group_of(kind: type, default: Any = None, *, skip: tuple[str, ...] = ()) -> Group:
    """The tree of a settings class.

    Args:
        kind: a dataclass; fields that are dataclasses become groups.
        default: instance whose values are the defaults; None: the fields' own.
        skip: fields to leave out.
    """
    kind = kind if default is None else type(default)
    hints, members = hints_of(kind), {}
    for one in fields(kind):
        if one.init and one.name not in skip:
            value = _default_of(one) if default is None else getattr(default, one.name)
            members[one.name] = _member(kind, one.name, hints[one.name], value)
    return Group(kind, default, members)


def _member(owner: type, name: str, kind: Any, value: Any) -> Option | Group:
    if isinstance(kind, type) and is_dataclass(kind):
        return group_of(kind, None if value is MISSING else value)
    return Option(kind, value, owner, name)


def _default_of(one: Any) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def build(
    group: Group,
    given: Mapping[str, GivenValue],
    prefix: str = "",
    *,
    made: Mapping[str, Any] | None = None,
) -> Any:
    """The instance of a group's dataclass with the given values.

    Args:
        given: dotted name -> value.
        prefix: of the names of this group, ending with a dot.
        made: fields that are no options -> their values.

    Raises:
        UserError: a value of the wrong kind, refused by the dataclass, or missing.
    """
    values = {
        name: build(member, given, f"{prefix}{name}.")
        if isinstance(member, Group)
        else value_of(member, f"{prefix}{name}", given)
        for name, member in group.members.items()
    } | dict(made or {})
    if group.default is not None and _unchanged(group.default, values):
        return group.default
    try:
        return group.kind(**values)
    except UserError as error:
        raise UserError(_with_place(str(error), group, prefix, given)) from error


def _unchanged(default: Any, values: Mapping[str, Any]) -> bool:
    return all(getattr(default, name) is value for name, value in values.items())


def value_of(option: Option, name: str, given: Mapping[str, GivenValue]) -> Any:
    """The given value of an option, or its default.

    Raises:
        UserError: a value of the wrong kind, or none where one must be given.
    """
    if name not in given:
        if option.default is MISSING:
            raise UserError(f"--{name} must be given; it takes {kind_in_words(option.kind)}")
        return option.default
    value, place = given[name].value, given[name].place
    try:
        return convert(value, option.kind)
    except ValueError:
        choices = choices_of(option.kind)
        one_of, near = "one of " if choices else "", nearest(str(value), choices)
        words = kind_in_words(option.kind)
        raise UserError(f"{place} takes {one_of}{words}, not {value!r}{near}") from None


def _with_place(message: str, group: Group, prefix: str, given: Mapping[str, GivenValue]) -> str:
    """A dataclass's refusal of a value, with the place where that value was given.

    ``lr must be above 0, not -1.0`` does not say whose: several streams have one.
    """
    own = prefix.rstrip(".").rpartition(".")[2]
    found = re.match(rf"(?:--)?(?:{re.escape(own)}(?:\.|: ))?(\w+)(?= )", message)
    if found and found[1] in group.members:
        name = f"{prefix}{found[1]}"
        place = given[name].place if name in given else name
        return place + message[found.end() :]
    quoted = [
        given[f"{prefix}{name}"].place
        for name in group.members
        if f"{prefix}{name}" in given and repr(given[f"{prefix}{name}"].value) in message
    ]
    if len(quoted) == 1 and "'" in message:
        return f"{quoted[0]}: {message}"
    return message if not prefix or message.startswith(own) else f"{prefix[:-1]}: {message}"


def convert_or_keep(value: Any, kind: Any) -> Any:
    """A value of the wanted kind, or the value as it is where it is none."""
    try:
        return convert(value, kind)
    except ValueError:
        return value

"""All options of a job: its own, its system's, and those of each stream."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from actors.errors import UserError, nearest
from pipelines.cli.job_settings import JobSettings
from pipelines.cli.options import Group, Option, group_of, hints_of
from pipelines.cli.sources import Source, mapping_of
from pipelines.systems import settings_class

STREAMS = "streams"


@dataclass(frozen=True)
class ReadFirst:
    """Options that decide which others there are."""

    preset: str = "demo"
    """Settings to start from: demo (two cores, minutes) or paper."""
    config: str | None = None
    """YAML file with settings; may be given several times, later files go over earlier ones."""
    streams: str = ""
    """Streams to use, separated by commas. A YAML file can also add, change and drop (null) streams
    here, such as streams: {clip: {track: frames, encoder: "timm:vit_tiny_patch16_224"}}."""


@dataclass(frozen=True)
class Layout:
    """The options of a job.

    Args:
        job: of every job.
        system: of the system, without its streams.
        streams: known streams by name, in their order; empty if the system has none.
        chosen: names of those that are used, in the same order.
    """

    job: Group
    system: Group
    streams: Mapping[str, Group]
    chosen: tuple[str, ...]

    @property
    def roots(self) -> dict[str, Option | Group]:
        """What stands at the top: single settings, groups, streams."""
        return {**self.job.members, **self.system.members, **self.streams}

    def first(self, preset: str) -> Group:
        """The options that are read before the others; without ``streams`` if there are none."""
        default = ReadFirst(preset=preset, streams=",".join(self.chosen))
        return group_of(ReadFirst, default, skip=() if self.streams else (STREAMS,))

    def members(self) -> dict[str, Option | Group]:
        """Options and groups by dotted name."""
        whole = Group(JobSettings, None, self.roots)
        return {**dict(whole.options()), **dict(whole.groups())}


def lay_out(system: str, sources: Sequence[Source]) -> tuple[Layout, list[Source]]:
    """The options of a job, and the sources without what decided which streams there are.

    Raises:
        UserError: no such system, no such stream, or a stream whose name can't be used.
    """
    kind = settings_class(system)
    job, own = group_of(JobSettings), group_of(kind, skip=(STREAMS,))
    _check_fields(kind, job, own)
    stream_kind = stream_class(kind)
    if stream_kind is None:
        return Layout(job, own, {}, ()), list(sources)
    taken = {*job.members, *own.members, *(one.name for one in fields(ReadFirst)), "help"}
    streams = _Streams(stream_kind, default_streams(kind), taken)
    left = [part for source in sources for part in streams.read(source)]
    return Layout(job, own, streams.known, streams.in_order()), left


def _check_fields(kind: type, job: Group, own: Group) -> None:
    for name in own.members:
        if name in (*job.members, "preset", "config", "help", "help_all"):
            raise UserError(
                f"{kind.__name__}.{name}: every job has a setting or option {name} of its own; "
                "give the field another name"
            )


def stream_class(kind: type) -> type | None:
    """The class of a stream's settings, out of the annotation of a system's field ``streams``.

    Returns:
        None where the system's settings have no such field.
    """
    hint = hints_of(kind).get(STREAMS)
    if hint is None:
        return None
    if len(get_args(hint)) != 2:
        raise UserError(
            f"{kind.__name__}.streams must be annotated as Mapping[str, StreamSettings]"
        )
    return get_args(hint)[1]


def default_streams(kind: type) -> Mapping[str, Any]:
    """The streams that a system has where none are given."""
    (one,) = (field for field in fields(kind) if field.name == STREAMS)
    return one.default_factory() if callable(one.default_factory) else {}


class _Streams:
    """The streams, as one source after the other adds, drops and chooses them."""

    def __init__(self, kind: type, defaults: Mapping[str, Any], taken: set[str]) -> None:
        self.kind, self.taken = kind, taken
        self.known = {name: group_of(kind, one) for name, one in defaults.items()}
        self.chosen = list(self.known)

    def in_order(self) -> tuple[str, ...]:
        """The chosen streams in their fixed order, whatever order they were given in."""
        return tuple(name for name in self.known if name in self.chosen)

    def read(self, source: Source) -> list[Source]:
        """Takes what a source says of streams; returns its settings, those of streams last."""
        if STREAMS not in source.content:
            return [source]
        rest = {name: value for name, value in source.content.items() if name != STREAMS}
        place, value = source.place(STREAMS), source.content[STREAMS]
        if isinstance(value, str) and ":" in value and value.lstrip().startswith("{"):
            value = mapping_of(value, place)
        if isinstance(value, Mapping):
            defined = self._define(source, {str(name): one for name, one in value.items()})
            return [Source(rest, source.file), Source(defined, source.file)]
        self._choose(value, place)
        return [Source(rest, source.file)]

    def _choose(self, value: Any, place: str) -> None:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list):
            raise UserError(
                f"{place} takes names separated by commas, or a mapping from names to settings, "
                f"not {value!r}"
            )
        words = [str(name).strip() for name in names if str(name).strip()]
        for name in words:
            self._check_known(name, place)
        self.chosen = words
        if not words:
            raise UserError(f"{place} is empty; give some of {','.join(self.known)}")

    def _check_known(self, name: str, place: str) -> None:
        if name not in self.known:
            raise UserError(
                f"there is no stream {name!r}; {place} takes some of {','.join(self.known)}"
                f"{nearest(name, self.known)}"
            )

    def _define(self, source: Source, streams: Mapping[str, Any]) -> dict[str, Any]:
        place = source.place(STREAMS)
        for name, settings in streams.items():
            if settings is None:
                self._check_known(name, place)
                self.chosen = [one for one in self.chosen if one != name]
                continue
            if name not in self.known:
                self._check_name(name, place)
                self.known[name] = group_of(self.kind)
            self.chosen.append(name)
        if not self.chosen:
            raise UserError(f"{place} drops every stream; keep one of {','.join(self.known)}")
        return {name: settings for name, settings in streams.items() if settings is not None}

    def _check_name(self, name: str, place: str) -> None:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise UserError(
                f"{place}: a stream can't be called {name!r}; use letters, digits and _, "
                "a letter first"
            )
        if name in self.taken:
            raise UserError(
                f"{place}: a stream can't be called {name!r}, which is another setting's name"
            )

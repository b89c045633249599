"""All settings of a job, and the command line that gives them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from actors.errors import UserError, nearest
from actors.tracks import TRACKS
from pipelines.cli.arguments import no_option
from pipelines.cli.help_pages import show
from pipelines.cli.job_settings import JobSettings
from pipelines.cli.layout import STREAMS, Layout, default_streams, lay_out, stream_class
from pipelines.cli.options import GivenValue, Option, build
from pipelines.cli.settings_help import settings_help
from pipelines.cli.sources import Source, Words, option_values, read_file, read_words, spread
from pipelines.systems import DEFAULT, SYSTEMS, settings_class
from trainers.streams.settings import StreamSettings

PRESETS_FOLDER = Path(__file__).parent / "presets"
DEFAULT_PRESET = "demo"


@dataclass(frozen=True)
class Settings(JobSettings):
    """Settings of a job and of the system that it trains.

    Args:
        system_settings: instance of the system's settings class.
    """

    system_settings: Any = field(default_factory=lambda: settings_class(DEFAULT)())

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, stream in self.streams.items():
            if stream.track not in TRACKS:
                raise UserError(
                    f"{name}.track takes one of {', '.join(TRACKS)}, not {stream.track!r}"
                    f"{nearest(stream.track, TRACKS)}"
                )

    @property
    def streams(self) -> Mapping[str, StreamSettings]:
        """The system's streams by name, in their order; empty if it has none."""
        return getattr(self.system_settings, STREAMS, {})

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks that the streams need, in the order of `TRACKS`.

        A system without streams in its settings may name them as ``tracks``.
        """
        needed = {stream.track for stream in self.streams.values()}
        if not hasattr(self.system_settings, STREAMS):
            needed = set(getattr(self.system_settings, "tracks", ()))
        return tuple(track for track in TRACKS if track in needed)


def parse_settings(
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    own: Mapping[str, str] | None = None,
) -> Settings:
    """Reads the command line: preset, then YAML files in order, then single settings.

    Args:
        own: options that the job has read already -> their help.

    Raises:
        UserError: a setting that does not exist, of the wrong type or out of range.
        SystemExit: help was asked for and shown.
    """
    words = read_words(sys.argv[1:] if arguments is None else arguments)
    if words.inputs and words.help is None:
        raise no_option(words.inputs[0])
    files = [read_file(_needed("config", path)) for path in _all(words, "config")]
    system = str(_chosen("system", words, files) or DEFAULT)
    preset = _chosen("preset", words, files)
    sources = [*_preset(system, preset), *files]
    first = dict(_first_options(words))
    layout, sources = lay_out(system, [*sources, Source(first)])
    if words.help is not None:
        preset = str(preset or DEFAULT_PRESET)
        everything = words.help == "--help-all"
        show(settings_help(layout, sources, description, preset, own or {}, everything=everything))
    return _settings(layout, [*sources, _command_line(words, layout)], system, own or {})


def _settings(
    layout: Layout, sources: Sequence[Source], system: str, own: Mapping[str, str]
) -> Settings:
    given: dict[str, GivenValue] = {}
    members = layout.members()
    names = option_names(layout, own)
    for source in sources:
        content = {n: v for n, v in source.content.items() if n not in ("preset", "system")}
        given |= spread(Source(content, source.file), members, names)
    streams = {name: build(layout.streams[name], given, f"{name}.") for name in layout.chosen}
    made = {STREAMS: streams} if layout.streams else {}
    system_settings = build(layout.system, given, made=made)
    job = build(layout.job, given, made={"system": system})
    values = {one.name: getattr(job, one.name) for one in fields(job)}
    try:
        return Settings(**values, system_settings=system_settings)
    except UserError as error:
        name, _, rest = str(error).partition(" ")
        place = given[name].place if name in given else name
        raise UserError(f"{place} {rest}") from error


def option_names(layout: Layout, own: Mapping[str, str]) -> list[str]:
    """Names of all options that a job takes, such as ``spatial.fit.lr``."""
    first = layout.first(DEFAULT_PRESET).members
    single = {name for name, one in layout.members().items() if isinstance(one, Option)}
    return sorted(single | {*first, *own})


def _command_line(words: Words, layout: Layout) -> Source:
    members = layout.members() | dict(layout.first(DEFAULT_PRESET).members)
    given = dict(option_values(words, members))
    early = ("config", "preset", *((STREAMS,) if layout.streams else ()))
    return Source({name: value for name, value in given.items() if name not in early})


def _first_options(words: Words) -> dict[str, str]:
    """What the command line says of streams, if anything."""
    return {n: _needed(n, value) for n, value in words.options if n == STREAMS}


def _all(words: Words, option: str) -> list[str | None]:
    return [value for name, value in words.options if name == option]


def _needed(option: str, value: str | None) -> str:
    if value is None:
        raise UserError(f"--{option} needs a value")
    return value


def _chosen(option: str, words: Words, files: Sequence[Source]) -> Any:
    """The last value on the command line, else in the files."""
    values = [file.content.get(option) for file in files]
    values += [_needed(option, value) for value in _all(words, option)]
    return next((value for value in reversed(values) if value is not None), None)


def presets(system: str) -> list[str]:
    """Names of a system's presets."""
    return sorted(path.stem for path in (PRESETS_FOLDER / system).glob("*.yaml"))


def _preset(system: str, name: Any) -> list[Source]:
    """The settings of a preset; none for a user's system, which has no presets.

    Raises:
        UserError: there is no such preset.
    """
    known = presets(system) if system in SYSTEMS else []
    if name is None and DEFAULT_PRESET not in known:
        return []
    name = str(name or DEFAULT_PRESET)
    every = {one for other in SYSTEMS for one in presets(other)}
    if name not in known and (known or name not in every):
        takes = " or ".join(known or sorted(every))
        raise UserError(
            f"there is no preset {name!r}; --preset takes {takes}{nearest(name, known or every)}"
        )
    return [read_file(str(PRESETS_FOLDER / system / f"{name}.yaml"))] if name in known else []


def as_config(settings: Settings) -> dict[str, Any]:
    """The settings as plain values in the form of a YAML file.

    Read with ``--config``, they give the same settings again.
    """
    from pipelines.steps.fingerprint import plain

    job = {one.name: plain(getattr(settings, one.name)) for one in fields(JobSettings)}
    system = plain(settings.system_settings)
    kind = type(settings.system_settings)
    if stream_class(kind) is not None:
        system[STREAMS] = dict.fromkeys(default_streams(kind)) | system[STREAMS]
    return job | system


def to_json(settings: Settings) -> str:
    """The resolved settings as text that is the same for the same settings."""
    return json.dumps(as_config(settings), indent=1, sort_keys=True, default=str)

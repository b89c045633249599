"""The pages of --help and --help-all of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from pipelines.cli.help_pages import Section, line, page, sections_of
from pipelines.cli.layout import Layout
from pipelines.cli.options import GivenValue, Group, Option, convert_or_keep
from pipelines.cli.sources import Source, spread

MAIN_OPTIONS = {
    "Data": ("data", "format", "streams", "splits.group_pattern", "splits.validation_share",
             "splits.test_share", "splits.number", "max_rejected_share"),
    "Settings": ("system", "preset", "config", "seed"),
    "Results": ("storage", "report", "registry.name", "registry.margin", "tracking.uri"),
    "extract": ("extract.flow_method", "extract.fps", "extract.short_side", "extract.max_seconds"),
    "CPUs and GPUs": ("resources.extract_actors", "resources.extract_gpus",
                      "resources.fit_workers", "resources.fit_gpus"),
}  # fmt: skip
"""What `--help` shows of every job."""

OF_A_STREAM = ("encoder", "weights", "frozen", "fit.lr", "fit.batch_size", "fit.max_steps",
               "embed.max_steps", "sequence.model", "sequence.fit.max_steps")  # fmt: skip
"""What `--help` shows of the first stream."""


def settings_help(
    layout: Layout,
    sources: Sequence[Source],
    description: str,
    preset: str,
    own: Mapping[str, str],
    *,
    everything: bool,
) -> str:
    """The page, with the defaults that the preset and the files give.

    Args:
        sources: preset and files.
        preset: name of the preset.
        own: options of this job alone -> their help.
    """
    layout = with_defaults(layout, sources)
    first = Group(type(None), None, layout.first(preset).members)
    sections = list(_all(layout, first) if everything else _main(layout, first))
    if own:
        lines = [(name, "VALUE", text) for name, text in own.items()]
        sections.insert(0, Section("Options of this job alone", lines))
    end = "--help-all shows every setting; all can be given in a file (--config) as well."
    return page(sections, description, end="" if everything else end)


def with_defaults(layout: Layout, sources: Sequence[Source]) -> Layout:
    """The options with what sources give as their defaults."""
    given: dict[str, GivenValue] = {}
    members = layout.members()
    for source in sources:
        content = {n: v for n, v in source.content.items() if n not in ("preset", "system")}
        given |= spread(Source(content, source.file), members, sorted(members))

    def changed(group: Group, prefix: str) -> Group:
        return replace(group, members={n: one(m, f"{prefix}{n}") for n, m in group.members.items()})

    def one(member: Option | Group, name: str) -> Option | Group:
        if isinstance(member, Group):
            return changed(member, f"{name}.")
        if name not in given:
            return member
        return replace(member, default=convert_or_keep(given[name].value, member.kind))

    streams = {name: changed(group, f"{name}.") for name, group in layout.streams.items()}
    return replace(
        layout, job=changed(layout.job, ""), system=changed(layout.system, ""), streams=streams
    )


def _main(layout: Layout, first: Group) -> Iterator[Section]:
    known = {**dict(first.options()), **layout.members()}

    def section(heading: str, names: Sequence[str], text: str | None = None) -> Section:
        found = [(name, known.get(name)) for name in names]
        lines = [line(n, one, short=True) for n, one in found if isinstance(one, Option)]
        return Section(heading, lines, text)

    for heading, names in MAIN_OPTIONS.items():
        if heading == "CPUs and GPUs":
            yield from _main_of_streams(layout, section)
            yield from _main_of_system(layout, section)
        yield section(heading, names)


def _main_of_streams(layout: Layout, section: Callable[..., Section]) -> Iterator[Section]:
    if not layout.chosen:
        return
    name, *others = layout.chosen
    text = f"Also of the streams {', '.join(others)}." if others else None
    headings: dict[str, list[str]] = {}
    for option in OF_A_STREAM:
        headings.setdefault(f"{name}.{option}".rpartition(".")[0], []).append(f"{name}.{option}")
    for heading, names in headings.items():
        yield section(heading, names, text if heading == name else None)


def _main_of_system(layout: Layout, section: Callable[..., Section]) -> Iterator[Section]:
    own = layout.system
    single = [name for name, member in own.members.items() if isinstance(member, Option)]
    names = getattr(own.kind, "main_options", single)
    headings: dict[str, list[str]] = {}
    for name in names:
        headings.setdefault(name.rpartition(".")[0] or "System", []).append(name)
    for heading, options in headings.items():
        yield section(heading, options)


def _all(layout: Layout, first: Group) -> Iterator[Section]:
    job = {name: one for name, one in layout.job.members.items() if isinstance(one, Option)}
    early = {name: one for name, one in first.members.items() if isinstance(one, Option)}
    yield Section("Job", [line(n, one, short=False) for n, one in {**job, **early}.items()])
    yield from sections_of(layout.job)
    for name in layout.chosen:
        group = layout.streams[name]
        yield from sections_of(group, f"{name}.", "Stream: its samples and its encoder.")
    single = {n: one for n, one in layout.system.members.items() if isinstance(one, Option)}
    if single:
        yield Section("System", [line(n, one, short=False) for n, one in single.items()])
    yield from sections_of(layout.system)

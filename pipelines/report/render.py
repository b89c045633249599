"""Renders ReportData as one self-contained HTML page."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from pipelines.report import images
from pipelines.report.cards import Card, kinds, pictures, seen_streams
from pipelines.report.data import (
    MethodResult,
    ReportData,
    StageTiming,
    finite,
)
from pipelines.report.figures import JOINT, color_of, curve_svg, search_svg
from pipelines.report.matrix import MOST_CLASSES, commonest_mistakes, confusion_svg
from pipelines.report.templates import template_environment
from pipelines.report.terminal import best_method, measure, percent, shown_columns

MOST_REJECTED = 200
"""Rejected videos listed per kind; the table of the run lists all."""
MOST_TRIALS = 5
"""Trials of the search that are listed below the figure."""


def render_html(data: ReportData) -> str:
    """Returns the report as one self-contained HTML page.

    The page makes no requests, works without JavaScript (which only sorts tables), follows the
    reader's light or dark setting, and can be printed. Names from users (classes, files,
    messages) are escaped.
    """
    seen = seen_streams(data.examples)
    page = _environment(data.streams).get_template("report.html")
    return page.render(
        data=data,
        style=page_style(),
        headline=_headline(data),
        columns=shown_columns(data),
        measure=measure(data),
        matrices=_matrices(data),
        mistakes=_mistakes(data),
        precision=_precision(data),
        precision_floor=_precision_floor(data),
        curves=[
            (name, svg)
            for name, records in data.curves.items()
            if (svg := curve_svg(name, records, color_of(name, data.streams))) is not None
        ],
        searches=_searches(data),
        trials=sorted(data.trials, key=_rank)[:MOST_TRIALS],
        longest=max((stage.seconds for stage in data.stages), default=0) or 1,
        rejected=_by_kind(data.rejected),
        examples=[Card(clip, pictures(clip, seen)) for clip in data.examples],
        wheel=images.wheel_uri() if "flow" in kinds(data.examples) else None,
        settings=list(_setting_groups(data.settings)),
        streams=_colors(data),
        most_classes=MOST_CLASSES,
        most_rejected=MOST_REJECTED,
    )


def figure_files(data: ReportData) -> dict[str, str]:
    """Returns the drawings as SVG files, file name -> text, to be logged with the page."""
    files = {f"confusion_{key}.svg": svg for key, _, svg in _matrices(data)}
    for name, records in data.curves.items():
        if (svg := curve_svg(name, records, color_of(name, data.streams))) is not None:
            files[f"curve_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.svg"] = svg
    files |= {f"search_{key}.svg": svg for key, svg in _searches(data)}
    # Other programs show figures on white, so a separate figure is always light.
    light = _asset("figures.css").replace("color-scheme: light dark;", "")
    light = re.sub(r"@media[^{]*\{.*?\n\}\n", "", light, flags=re.DOTALL)
    style = Markup("<style>{}svg {{ background: var(--card); }}</style>").format(Markup(light))
    return {
        name: str(svg.replace(">", Markup(">{}").format(style), 1)) for name, svg in files.items()
    }


def _environment(streams: Sequence[str]) -> Environment:
    environment = template_environment()
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "rate": rate,
        "color": lambda name: color_of(name, streams),
        "known": lambda value: finite(value) is not None,
        "penalty": penalty,
        "score": score,
        "on_scale": lambda value, low: f"{100 * (value - low) / (1 - low):.2f}",
        "count": lambda value: f"{value:,}",
        "plural": lambda value, word: f"{value:,} {word}{'' if value == 1 else 's'}",
    }
    environment.globals |= {"interval": interval}
    return environment


def page_style() -> Markup:
    """The style sheet of a page."""
    return Markup(_asset("figures.css") + _asset("report.css"))


def _asset(name: str) -> str:
    return (resources.files("pipelines.report") / name).read_text(encoding="utf-8")


def duration(seconds: float) -> str:
    """Writes seconds as ``0.42 s``, ``8.3 s``, ``3 min 42 s`` or ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def score(value: Any) -> str:
    """Writes a score as ``0.953``; a dash where there is none."""
    number = finite(value)
    return "–" if number is None else f"{number:.3f}"


def penalty(value: Any) -> str:
    """Writes a penalty as ``0`` or ``1.5e-4``."""
    if not value:
        return "0"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}e{int(power)}"


def rate(stage: StageTiming) -> str:
    """Writes a stage's throughput as ``12.3 clips/s``; empty where there is none."""
    if stage.throughput is None:
        return ""
    digits = 0 if stage.throughput >= 100 else 1 if stage.throughput >= 1 else 2
    return f"{stage.throughput:,.{digits}f} {stage.unit}/s"


def interval(share: float | None, n: int, z: float = 1.96) -> tuple[float, float] | None:
    """Returns Wilson's 95 % confidence interval of a share of n clips (Wilson, JASA 1927)."""
    value = finite(share)
    if value is None or n <= 0:
        return None
    center = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return max(0.0, float(center - half)), min(1.0, float(center + half))


@dataclass(frozen=True)
class _Headline:
    """The figures at the top of the page."""

    joint: MethodResult | None
    refined: MethodResult | None
    single: MethodResult | None
    """The best method of a single stream, among those measured on all clips."""
    cached: int


def _headline(data: ReportData) -> _Headline:
    named = {method.name: method for method in data.methods}
    joint = named.get(data.joint or "") or best_method(data)
    single: MethodResult | None = None
    for method in data.methods:
        score = finite(getattr(method, measure(data)))
        if color_of(method.name, data.streams) == JOINT or score is None or joint is None:
            continue
        if method.n == joint.n and (single is None or score > getattr(single, measure(data))):
            single = method
    chosen = next((m for m in data.methods if m.chosen and m is not joint), None)
    return _Headline(
        joint,
        chosen,
        None if single is joint else single,
        sum(stage.cached for stage in data.stages),
    )


def _colors(data: ReportData) -> list[str]:
    """Returns the streams whose colors the results use, in their order."""
    used = {color_of(method.name, data.streams) for method in data.methods}
    return [stream for stream in data.streams if color_of(stream, data.streams) in used]


def _matrices(data: ReportData) -> list[tuple[str, str, Markup]]:
    pairs = (
        ("before", "Before refinement", data.confusion),
        ("after", "After refinement", data.confusion_refined),
    )
    return [
        (key, title, confusion_svg(counts, data.data.classes))
        for key, title, counts in pairs
        if counts is not None
    ]


def _mistakes(data: ReportData) -> list[Any]:
    last = data.confusion if data.confusion_refined is None else data.confusion_refined
    return [] if last is None else commonest_mistakes(last, data.data.classes)


@dataclass(frozen=True)
class _Precision:
    """Average precision of one class, before and after refinement; None: not available."""

    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """After minus before."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before


def _precision(data: ReportData) -> list[_Precision]:
    """Returns the classes, lowest average precision first."""
    if data.ap_before is None and data.ap_after is None:
        return []
    nothing = np.full(len(data.data.classes), np.nan)
    before = nothing if data.ap_before is None else data.ap_before
    after = nothing if data.ap_after is None else data.ap_after
    rows = [
        _Precision(name, finite(b), finite(a))
        for name, b, a in zip(data.data.classes, before, after, strict=True)
    ]

    def hardest(row: _Precision) -> float:
        last = row.before if row.after is None else row.after
        return 2.0 if last is None else last

    return sorted(rows, key=hardest)


def _precision_floor(data: ReportData) -> float:
    """Returns the start of the scale of average precision: a tenth at or below the lowest."""
    rows = [array for array in (data.ap_before, data.ap_after) if array is not None]
    values = np.concatenate(rows) if rows else np.zeros(0)
    values = values[np.isfinite(values)]
    return min(0.8, float(np.floor(values.min() * 10) / 10)) if values.size else 0.0


def _searches(data: ReportData) -> list[tuple[str, Markup]]:
    if not data.trials:
        return []

    drawings = [("score", search_svg(data.trials, data.best, "score", "Score", score))]
    if any(finite(trial.get("zero_rows")) is not None for trial in data.trials):
        rows = search_svg(
            data.trials, data.best, "zero_rows", "Zero rows", lambda value: percent(value, 0)
        )
        drawings.append(("zero_rows", rows))
    return drawings


def _rank(trial: Mapping[str, Any]) -> float:
    score = finite(trial.get("score"))
    return float("inf") if score is None else -score


def _by_kind(rejected: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Returns the rejected videos by kind, the most frequent first."""
    kinds: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rejected:
        kinds[str(row["kind"])].append(row)
    return sorted(kinds.items(), key=lambda item: -len(item[1]))


def _setting_groups(settings: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yields the settings by group, those without a group first; nested keys are dotted."""
    alone = [
        (key, _write(value)) for key, value in settings.items() if not isinstance(value, Mapping)
    ]
    if alone:
        yield "run", alone
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield key, list(_flat(value, ""))


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _write(value)


def _write(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_write(item) for item in value) or "none"
    return str(value)

"""Joins and refines the scores of any systems, and evaluates that by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from actors.storage import Storage
from pipelines.cli.refine_settings import AUTO, RefineSettings
from pipelines.data.score_file import ScoreFile, read_score_file
from pipelines.report.refinement import RefinementPage, refinement_html
from pipelines.report.terminal import percent
from pipelines.steps.console import Console
from trainers.metrics.calibration import Reliability, reliability
from trainers.metrics.measures import summary
from trainers.refinement.choose import Choice, choose, cross_validate, default_folds
from trainers.refinement.fitted import METHODS, FittedRefinement, make_method
from trainers.refinement.late_fusion import (
    GapWeighted,
    MeanOfLogits,
    MeanOfProbabilities,
    TemperaturePerStream,
    WeightedMean,
)
from trainers.refinement.learned import LearnedRefinement
from trainers.refinement.score_streams import (
    Floats,
    ScoreMethod,
    logit_table,
    to_probabilities,
)
from trainers.table import Table as ClipTable


@dataclass(frozen=True, eq=False)
class MethodRow:
    """A line of the table: held-out figures of one way to join the streams."""

    name: str
    label: str
    scores: Floats
    figures: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Refined:
    """What was found and written."""

    rows: Sequence[MethodRow]
    choice: Choice
    refinement: FittedRefinement
    learned: FittedRefinement
    files: tuple[Path, ...]


def refine_scores(path: Path, settings: RefineSettings, console: Console) -> Refined:
    """Compares, chooses, fits, writes and shows.

    Raises:
        UserError: a file that can't be used, or an output that can't be written.
    """
    output = Path(settings.output).absolute()
    Storage(output.parent).check_writable()
    data = read_score_file(path, groups=settings.groups, given=settings.given)
    groups = data.table.groups
    folds = min(settings.folds or default_folds(groups), len(np.unique(groups)))
    _say_what_is_there(console, path, data, folds)
    # Threads share the folds; a BLAS that starts threads of its own inside them only waits.
    with threadpool_limits(1, user_api="blas"):
        rows, choice = compare_methods(data, folds, console)
        if settings.method != AUTO:
            choice = Choice(settings.method, "asked for", choice.measures, choice.chances)
        learned = _fit("learned", path, data, rows)
        refinement = learned if choice.name == "learned" else _fit(choice.name, path, data, rows)
    page = output.with_suffix(".html")
    Storage(output.parent).write_bytes(output.name, refinement.to_bytes())
    html = refinement_html(_page(path, data, folds, rows, choice, refinement, learned))
    Storage(page.parent).write_bytes(page.name, html.encode())
    result = Refined(rows, choice, refinement, learned, (output, page))
    _show(console, data, result)
    return result


def compare_methods(
    data: ScoreFile, folds: int, console: Console
) -> tuple[list[MethodRow], Choice]:
    """Every way to join the streams on held-out groups, and which refinement is chosen."""
    logits = logit_table(data.table, given=data.given, multi_label=data.multi_label)
    makers = methods(data)
    fits = len(makers) * folds
    with console.stage("cross-validate", total=fits, unit="fits", alike=False) as progress:
        held_out = cross_validate(
            {name: make for name, (_, make) in makers.items()},
            logits,
            folds,
            on_fit=progress.update,
        )
    candidates = {name: held_out[PLAIN[data.given] if name == "none" else name] for name in METHODS}
    choice = choose(candidates, logits.targets, logits.groups)
    labels = {name: label for name, (label, _) in makers.items()}
    streams = {f"stream {name}": _alone(logits, name) for name in logits.names}
    rows = [_row(name, name, scores, data) for name, scores in streams.items()]
    return rows + [_row(n, labels[n], scores, data) for n, scores in held_out.items()], choice


PLAIN = {"logits": "mean_logits", "probabilities": "mean_probabilities"}
"""The plain mean, which a refinement must beat."""


def methods(data: ScoreFile) -> dict[str, tuple[str, Callable[[], ScoreMethod]]]:
    """Name -> (what a person reads, what makes it unfitted), the slowest last."""
    several = data.multi_label
    found: dict[str, tuple[str, Callable[[], ScoreMethod]]] = {
        "mean_logits": ("mean of logits", lambda: MeanOfLogits(several)),
        "mean_probabilities": ("mean of probabilities", lambda: MeanOfProbabilities(several)),
        "temperature": ("a temperature per stream", lambda: TemperaturePerStream(several)),
        "gap": ("GAP-weighted", lambda: GapWeighted(several)),
        "weights": ("weights by cross-validation", lambda: WeightedMean(several)),
    }

    def maker(name: str) -> Callable[[], ScoreMethod]:
        return lambda: make_method(name, given=data.given, multi_label=several)

    labels = {"confusion": "contextual refinement, as printed"}
    return found | {n: (labels.get(n, METHODS[n]), maker(n)) for n in METHODS if n != "none"}


def _alone(logits: ClipTable, name: str) -> Floats:
    """One stream's probabilities; NaN for the clips that lack it."""
    scores = to_probabilities(logits.features[name], multi_label=logits.multi_label)
    return np.where(logits.present[name][:, None], scores, np.nan)


def _row(name: str, label: str, scores: Floats, data: ScoreFile) -> MethodRow:
    there = np.asarray(~np.isnan(scores).any(1))
    truth = data.table.targets[there].truth()
    figures = summary(scores[there], truth, multi_label=data.multi_label)
    curve = reliability(scores[there], truth, multi_label=data.multi_label)
    return MethodRow(name, label, scores, {**figures, "ece": curve.ece, "n": int(there.sum())})


def _fit(name: str, path: Path, data: ScoreFile, rows: Sequence[MethodRow]) -> FittedRefinement:
    """The refinement on all clips; its facts name what it was fitted on and its figures."""
    return FittedRefinement.fit(
        name,
        data.table,
        given=data.given,
        classes=data.classes,
        facts={
            "scores": path.name,
            "clips": len(data.table),
            "cross_validated": {row.name: dict(row.figures) for row in rows},
        },
    )


def _page(
    path: Path,
    data: ScoreFile,
    folds: int,
    rows: Sequence[MethodRow],
    choice: Choice,
    refinement: FittedRefinement,
    learned: FittedRefinement,
) -> RefinementPage:
    named = {row.name: row for row in rows}
    before = named[PLAIN[data.given]]
    after = named.get(choice.name, before)
    method = learned.method
    assert isinstance(method, LearnedRefinement)
    known = method.strength is not None
    return RefinementPage(
        title=f"{path.name}: late fusion and refinement",
        about=_about(data, folds),
        columns=columns(data),
        rows=[
            (row.label, [row.figures.get(key) for key, _ in columns(data)], row is after)
            for row in rows
        ],
        reason=f"{METHODS[choice.name]}: {choice.reason}",
        note=refinement.note,
        classes=data.classes,
        streams=data.table.names,
        borrowing=method.borrowing if known else None,
        fallback=method.fallback,
        curves={
            f"before: {before.label}": _curve(before, data),
            f"after: {after.label}": _curve(after, data),
        },
        multi_label=data.multi_label,
    )


def _curve(row: MethodRow, data: ScoreFile) -> Reliability:
    return reliability(row.scores, data.table.targets.truth(), multi_label=data.multi_label)


def columns(data: ScoreFile) -> list[tuple[str, str]]:
    """Figure and heading."""
    if data.multi_label:
        return [("map", "mAP"), ("gap_at_20", "GAP@20"), ("ece", "ECE")]
    return [
        ("accuracy", "accuracy"),
        ("mean_class_accuracy", "mean class"),
        ("map", "mAP"),
        ("ece", "ECE"),
    ]


def _about(data: ScoreFile, folds: int) -> str:
    table = data.table
    groups = len(np.unique(table.groups))
    return (
        f"{len(table):,} clips, {len(data.classes):,} classes, {len(table.names)} streams of "
        f"{data.given}; {groups:,} groups ({data.grouped_by}), {folds} folds"
    )


def _say_what_is_there(console: Console, path: Path, data: ScoreFile, folds: int) -> None:
    console.say(f"{path.name}: {_about(data, folds)}", markup=False)


def _show(console: Console, data: ScoreFile, result: Refined) -> None:
    chosen = PLAIN[data.given] if result.choice.name == "none" else result.choice.name
    table = Table(title="cross-validated by group", title_justify="left", title_style="bold")
    table.add_column("method")
    for _, heading in columns(data):
        table.add_column(heading, justify="right")
    table.add_column("clips", justify="right")
    for row in result.rows:
        name = Text(row.label)
        if row.name == chosen:
            name.append("  chosen", style="green")
        figures = [percent(row.figures.get(key), 2) for key, _ in columns(data)]
        style = "bold" if row.name == chosen else ""
        table.add_row(name, *figures, f"{row.figures['n']:,}", style=style)
    console.rich.print(table)
    note = f" ({result.refinement.note})" if result.refinement.note else ""
    words = f"chosen      {METHODS[result.choice.name]}{note}: {result.choice.reason}"
    console.say(words, markup=False)
    learned = result.learned.method
    if isinstance(learned, LearnedRefinement) and learned.fallback:
        console.say(f"learned     the plain mean: {learned.fallback}", markup=False)
    for what, file in zip(("refinement", "page"), result.files, strict=True):
        console.say(f"{what:<11} {file}", markup=False)

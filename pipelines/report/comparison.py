"""The comparison's tables for a terminal, as a page, as LaTeX and CSV; and its figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from pipelines.report.templates import template_environment
from pipelines.systems.rows import Tables

NOTE = (
    "Percent. p: the row against the {noun} on the same test clips. (paper): the paper's own "
    "figures, with other data and larger networks."
)
COLUMNS = (
    "table",
    "name",
    "label",
    "accuracy",
    "accuracy_spread",
    "mean_class_accuracy",
    "map",
    "map_spread",
    "p_mcnemar",
    "map_difference",
    "map_low",
    "map_high",
    "p_bootstrap",
    "ucf101",
    "ccv",
    "seconds",
    "absence",
    "chosen",
)


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One row. Shares are from 0 to 1; None: the figure does not apply."""

    table: int
    name: str
    label: str
    accuracy: float | None
    """Mean over splits; None if multi-label."""
    accuracy_spread: float | None
    """Standard deviation over splits (n - 1); None with one split."""
    mean_class_accuracy: float | None
    map: float
    map_spread: float | None
    p_mcnemar: float | None
    """Against the reference, over all splits; None if multi-label and for the reference."""
    map_difference: float | None
    """mAP minus that of the reference; None for the reference."""
    map_low: float | None
    """Its 95 % interval."""
    map_high: float | None
    p_bootstrap: float | None
    ucf101: float | None
    """The paper's accuracy on UCF-101."""
    ccv: float | None
    """The paper's mAP on CCV."""
    seconds: float
    """Of all splits."""
    absence: str
    """How a clip that lacks a stream takes part."""
    chosen: str
    """The constants that the row chose for itself, split by split."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The contents of the tables and pages."""

    title: str
    tables: Tables
    command: str
    multi_label: bool
    splits: Sequence[str]
    """Names of the splits or folds."""
    clips: int
    """Test clips of all splits."""
    classes: Sequence[str]
    rows: Sequence[ComparedRow]
    ap_before: NDArray[np.float64] | None = None
    """(C,) average precision of the reference, mean over splits; NaN: no test clip."""
    ap_after: NDArray[np.float64] | None = None
    """(C,) of the row that the tables' figure sets beside it."""


def figures(row: ComparedRow, *, multi_label: bool) -> list[str]:
    """The formatted figures of a row: measures, tests, the paper's figures."""
    words = [] if multi_label else [share(row.accuracy, row.accuracy_spread)]
    words.append(share(row.map, row.map_spread))
    words += [] if multi_label else [chance(row.p_mcnemar)]
    words += [chance(row.p_bootstrap), share(row.ucf101), share(row.ccv)]
    return words


def headings(comparison: Comparison) -> list[str]:
    """The headings of the columns of `figures`."""
    words = [] if comparison.multi_label else ["accuracy"]
    words.append("mAP")
    words += [] if comparison.multi_label else ["p accuracy"]
    return [*words, "p mAP", "UCF-101 (paper)", "CCV (paper)"]


def share(value: float | None, spread: float | None = None) -> str:
    """``87.2`` or ``87.2 ± 0.6``, in percent; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def chance(value: float | None) -> str:
    """A p value as ``0.21`` or ``< 0.001``; a dash where there is none."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def terminal_tables(comparison: Comparison) -> list[Table]:
    """One table per number that has rows."""
    tables = []
    for number, title in comparison.tables.titles.items():
        chosen = [row for row in comparison.rows if row.table == number]
        if not chosen:
            continue
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("method")
        for heading in headings(comparison):
            table.add_column(heading, justify="right")
        for row in chosen:
            table.add_row(row.label, *figures(row, multi_label=comparison.multi_label))
        tables.append(table)
    if tables:
        tables[-1].caption = NOTE.format(noun=comparison.tables.noun)
        tables[-1].caption_justify = "left"
    return tables


def to_csv(comparison: Comparison) -> str:
    """All rows with all fields, numbers in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in comparison.rows:
        values = [getattr(row, name) for name in COLUMNS]
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue()


def to_latex(comparison: Comparison, number: int) -> str:
    """One table as a ``tabular`` that needs no package."""
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(headings(comparison))}}}",
        r"\hline",
        " & ".join(["Method", *(escape(word) for word in headings(comparison))]) + r" \\",
        r"\hline",
    ]
    for row in comparison.rows:
        if row.table == number:
            words = [row.label, *figures(row, multi_label=comparison.multi_label)]
            lines.append(" & ".join(escape(word) for word in words) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def escape(text: str) -> str:
    """Escapes the characters that are special in LaTeX."""
    replaced = {"±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "\\": r"\textbackslash{}"}
    replaced |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    replaced |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(replaced.get(sign, sign) for sign in text)


def precision_figure(comparison: Comparison) -> Figure:
    """Every class's average precision before and after what the tables' figure shows.

    Raises:
        ValueError: the comparison has no such figure.
    """
    before, after, shown = comparison.ap_before, comparison.ap_after, comparison.tables.figure
    if before is None or after is None or shown is None:
        raise ValueError("there is no average precision to draw")
    places = np.arange(len(before))
    figure = Figure(figsize=(max(6.0, 0.28 * len(before) + 1.5), 4.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(places - 0.2, before, 0.4, label=comparison.tables.noun, color="#9aa5b1")
    axes.bar(places + 0.2, after, 0.4, label=f"with {shown.what}", color="#1f6f8b")
    axes.set_xticks(places, comparison.classes, rotation=90, fontsize=8)
    axes.set_xlim(-0.7, len(before) - 0.3)
    axes.set_ylabel("average precision")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, frameon=False)
    return figure


def figure_svg(figure: Figure) -> str:
    """The figure as an SVG element."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def comparison_html(comparison: Comparison) -> str:
    """The tables, the figure and the details of each row, as one self-contained page."""
    environment = template_environment()
    drawn = comparison.ap_before is not None
    return environment.get_template("comparison.html").render(
        data=comparison,
        tables=[
            (title, [row for row in comparison.rows if row.table == number])
            for number, title in comparison.tables.titles.items()
            if any(row.table == number for row in comparison.rows)
        ],
        headings=headings(comparison),
        figures=lambda row: figures(row, multi_label=comparison.multi_label),
        figure=Markup(figure_svg(precision_figure(comparison))) if drawn else None,
    )

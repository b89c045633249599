"""The results table for a terminal, and the format of figures everywhere."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from pipelines.report.data import MethodResult, ReportData, finite

COLUMNS = (
    ("accuracy", "accuracy"),
    ("mean_class_accuracy", "mean class"),
    ("map", "mAP"),
    ("hit5", "Hit@5"),
    ("ceiling", "ceiling"),
    ("share_of_ceiling", "clues matched"),
)
"""Field of MethodResult and its heading; a column with no figure at all is left out."""


def percent(value: Any, digits: int = 1) -> str:
    """Writes a share as ``96.3%``; a dash where there is none."""
    number = finite(value)
    return "–" if number is None else f"{100 * number:.{digits}f}%"


def shown_columns(data: ReportData) -> list[tuple[str, str]]:
    """Returns those of COLUMNS that have a figure in some row."""
    return [
        (name, heading)
        for name, heading in COLUMNS
        if any(finite(getattr(method, name)) is not None for method in data.methods)
    ]


def measure(data: ReportData) -> str:
    """Returns what ranks methods: ``accuracy``, or ``map`` where clips carry several labels."""
    return "map" if data.data.multi_label else "accuracy"


def best_method(data: ReportData) -> MethodResult | None:
    """Returns the first of the best methods among those measured on all clips."""
    ranked = [
        (finite(getattr(method, measure(data))), method)
        for method in data.methods
        if method.n == max(other.n for other in data.methods)
    ]
    scored = [(score, method) for score, method in ranked if score is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def methods_table(data: ReportData) -> Table:
    """Returns the results for the terminal; the best method on all clips is bold."""
    columns = shown_columns(data)
    table = Table(title=Text(data.title), title_justify="left", title_style="bold")
    table.add_column("method")
    for _, heading in columns:
        table.add_column(heading, justify="right")
    table.add_column("clips", justify="right")
    best = best_method(data)
    for method in data.methods:
        # Text, not str: a name with brackets must not be taken for markup.
        name = Text(method.label)
        if method.note:
            name.append(f"  {method.note}", style="dim")
        figures = [percent(getattr(method, field)) for field, _ in columns]
        style = "bold" if method is best else ""
        table.add_row(name, *figures, f"{method.n:,}", style=style)
    return table

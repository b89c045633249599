"""The confusion matrix as a drawing, and its most frequent errors as a list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

COUNTS_PX = 18
"""Cells larger than this have room for their count."""
SMALLEST_PX = 9
CORNER = "true ↓ predicted →"
MOST_CLASSES = 150
"""With more classes, only those with the most errors are drawn."""
PAGE_PX = 1064
"""Width of the page's text; more than about a hundred classes scroll."""
LABEL_LETTERS = 24
"""Longer class names are cut in the drawing; the whole name is its tooltip."""


@dataclass(frozen=True)
class Mistake:
    """One cell off the diagonal."""

    truth: str
    guess: str
    count: int
    of: int
    """Test clips of the true class."""


def commonest_mistakes(
    confusion: NDArray[np.number], classes: Sequence[str], most: int = 8
) -> list[Mistake]:
    """Returns the largest cells off the diagonal of a (C, C) matrix of counts, largest first."""
    wrong = np.array(confusion, dtype=np.int64)
    totals = wrong.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(cell), len(classes)) for cell in largest if wrong.flat[cell] > 0]
    return [
        Mistake(classes[row], classes[column], int(wrong[row, column]), int(totals[row]))
        for row, column in cells
    ]


def hardest_classes(confusion: NDArray[np.number], most: int) -> NDArray[np.intp]:
    """Returns the indices, in order, of the ``most`` classes with the most errors."""
    wrong = np.array(confusion, dtype=np.int64)
    np.fill_diagonal(wrong, 0)
    part = wrong.sum(axis=0) + wrong.sum(axis=1)
    return np.sort(np.argsort(-part, kind="stable")[:most])


def confusion_svg(confusion: NDArray[np.number], classes: Sequence[str]) -> Markup:
    """Draws a (C, C) matrix of counts: rows are true classes, columns predicted classes.

    Shade is the share of the row. Correct and incorrect cells have different hues, and a single
    error is visible. Cells show their counts if these fit; every cell has a tooltip.
    """
    shown: NDArray[np.intp] = np.arange(len(classes))
    if len(classes) > MOST_CLASSES:
        shown = hardest_classes(confusion, 100)
    totals = np.asarray(confusion, dtype=np.int64).sum(axis=1)
    counts = np.asarray(confusion, dtype=np.int64)[np.ix_(shown, shown)]
    names = [classes[index] for index in shown]
    return _draw(counts, totals[shown], names)


def _draw(counts: NDArray[np.int64], totals: NDArray[np.int64], names: Sequence[str]) -> Markup:
    size = len(names)
    # Beside the smallest cells, names are cut to the letters that fit in the page's width.
    room = int((PAGE_PX - 60 - SMALLEST_PX * size) / (0.62 * 0.9 * SMALLEST_PX))
    labels = [_short(name, min(LABEL_LETTERS, max(room, 12))) for name in names]
    longest = max((len(label) for label in labels), default=0)
    # As large as the page allows, within legible limits.
    cell = max(SMALLEST_PX, min(34, int((PAGE_PX - 62) / (size + 0.62 * longest))))
    letters = min(12.0, 0.9 * cell)
    # Letters of a wide font, and room for the corner's words.
    margin = math.ceil(max(longest, len(CORNER)) * letters * 0.62) + 14
    width, height = margin + size * cell + 46, margin + size * cell + 6
    parts = [_labels(labels, names, margin, cell, letters), _grid(size, margin, cell)]
    for row, total in enumerate(totals):
        if total:
            parts.append(_row(counts[row], int(total), row, names, margin, cell))
    return Markup(
        '<svg class="figure matrix" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" '
        'width="{w}" height="{h}" role="img" aria-label="Confusion matrix of {n} classes: rows '
        'are true classes, columns predictions">{body}</svg>'
    ).format(w=width, h=height, n=size, body=Markup("").join(parts))


def _labels(
    labels: Sequence[str], names: Sequence[str], margin: int, cell: int, letters: float
) -> Markup:
    text = Markup('<text class="ink{}" {}>{}<title>{}</title></text>')
    parts = []
    for index, (label, name) in enumerate(zip(labels, names, strict=True)):
        middle = margin + (index + 0.5) * cell
        row = Markup('x="{}" y="{:.1f}"').format(margin - 7, middle + letters * 0.35)
        column = Markup('transform="translate({:.1f} {}) rotate(-90)"').format(
            middle + letters * 0.35, margin - 7
        )
        parts += [text.format(" end", row, label, name), text.format("", column, label, name)]
    corner = Markup('<text class="end" x="{}" y="{}">{}</text>').format(
        margin - 7, margin - 10, CORNER
    )
    found = Markup('<text class="end" x="{}" y="{}">found</text>').format(
        margin + len(labels) * cell + 44, margin - 7
    )
    body = Markup("").join([*parts, corner, found])
    return Markup('<g style="font-size:{}px">{}</g>').format(letters, body)


def _grid(size: int, margin: int, cell: int) -> Markup:
    every = 1 if cell > COUNTS_PX else 5
    far = margin + size * cell
    marks = sorted({*range(0, size + 1, every), size})
    path = "".join(
        f"M{margin} {margin + k * cell}H{far}M{margin + k * cell} {margin}V{far}" for k in marks
    )
    return Markup('<path class="grid" fill="none" d="{}"/>').format(path)


def _row(
    counts: NDArray[np.int64], total: int, row: int, names: Sequence[str], margin: int, cell: int
) -> Markup:
    y = margin + row * cell
    parts: list[Any] = []
    for column in np.flatnonzero(counts).tolist():
        count, right = int(counts[column]), column == row
        share = count / total
        x = margin + column * cell
        tip = f"{names[row]} → {names[column]}: {count} of {total}"
        parts.append(
            Markup(
                '<rect class="{}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.2f}">'
                "<title>{}</title></rect>"
            ).format(
                "hit" if right else "miss",
                x + 1,
                y + 1,
                cell - 2,
                cell - 2,
                0.22 + 0.78 * share,
                tip,
            )
        )
        if cell > COUNTS_PX:
            parts.append(
                Markup(
                    '<text class="middle {}" x="{}" y="{}" pointer-events="none">{}</text>'
                ).format("on" if share > 0.45 else "ink", x + cell // 2, y + cell // 2 + 4, count)
            )
    recall = Markup('<text class="end" style="font-size:{}px" x="{}" y="{}">{}</text>').format(
        min(11, cell),
        margin + len(names) * cell + 44,
        y + cell // 2 + 4,
        f"{counts[row] / total:.0%}",
    )
    return Markup("").join([*parts, recall])


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"

"""The page of pipelines/refine.py: figures, weights between classes, calibration."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from pipelines.report.figures import panel_svg
from pipelines.report.render import page_style
from pipelines.report.templates import template_environment
from pipelines.report.terminal import percent
from trainers.metrics.calibration import Reliability

MOST_PAIRS = 20
"""Pairs of classes that are listed."""
PICTURE_PX = 480
"""Least side of the picture of a matrix; every class is a whole number of pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementPage:
    """What the page shows.

    Args:
        title, about: headings.
        columns: figure and heading; ``rows``: label, a figure per column (shares, 0..1) and whether
            this is the chosen one.
        reason: why it was chosen; ``note``: its constants.
        borrowing: (S, C, C) A of the learned refinement; None: it is the plain mean, for the reason
            in ``fallback``.
        curves: heading -> held-out reliability, before and after.
    """

    title: str
    about: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[float | None], bool]]
    reason: str
    note: str
    classes: Sequence[str]
    streams: Sequence[str]
    borrowing: NDArray[np.floating] | None
    fallback: str
    curves: Mapping[str, Reliability]
    multi_label: bool


@dataclass(frozen=True)
class Pair:
    """One entry of A off the diagonal."""

    taker: str
    giver: str
    stream: str
    weight: float


def strongest_pairs(
    borrowing: NDArray[np.floating],
    classes: Sequence[str],
    streams: Sequence[str],
    most: int = MOST_PAIRS,
) -> list[Pair]:
    """The off-diagonal entries of (S, C, C) A with the largest absolute value, largest first."""
    weights = np.array(borrowing, dtype=float)
    weights[:, np.arange(len(classes)), np.arange(len(classes))] = 0.0
    order = np.argsort(-np.abs(weights), axis=None, kind="stable")[:most]
    places = [tuple(map(int, np.unravel_index(one, weights.shape))) for one in order]
    return [
        Pair(classes[i], classes[j], streams[s], float(weights[s, i, j]))
        for s, i, j in places
        if weights[s, i, j] != 0
    ]


def refinement_html(page: RefinementPage) -> str:
    """One self-contained HTML page; class names and paths are escaped."""
    environment = template_environment()
    environment.filters["percent"] = lambda value: percent(value, 2)
    pairs, pictures = [], []
    if page.borrowing is not None:
        pairs = strongest_pairs(page.borrowing, page.classes, page.streams)
        reach = float(np.abs(page.borrowing).max()) or 1.0
        pictures = [
            (stream, matrix_uri(one, reach))
            for stream, one in zip(page.streams, page.borrowing, strict=True)
        ]
    return environment.get_template("refinement.html").render(
        page=page,
        style=page_style(),
        pairs=pairs,
        pictures=pictures,
        curves=[(name, curve, reliability_svg(curve, name)) for name, curve in page.curves.items()],
    )


def matrix_uri(matrix: NDArray[np.floating], reach: float) -> str:
    """A (C, C) matrix as a picture: red above 0, blue below, white at 0, saturated at `reach`."""
    shade = colormaps["RdBu_r"](0.5 + np.asarray(matrix, float) / (2 * reach), bytes=True)
    picture = Image.fromarray(np.ascontiguousarray(shade[..., :3]))
    side = len(matrix) * max(1, PICTURE_PX // len(matrix))
    stream = io.BytesIO()
    picture.resize((side, side), Image.Resampling.NEAREST).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def reliability_svg(curve: Reliability, name: str) -> Markup:
    """Share correct over probability; one dot per bin, its area by the number of predictions."""
    there = curve.counts > 0
    return panel_svg(
        list(zip(curve.confidence[there], curve.right[there], strict=True)),
        sizes=[float(np.sqrt(n / curve.counts.sum())) for n in curve.counts[there]],
        across="probability",
        up="share correct",
        label=f"Reliability, {name}",
    )

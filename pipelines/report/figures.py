"""Curves of the fits and of the search over penalties, as SVG in the style of the page.

They are drawn without matplotlib: they follow the reader's light or dark colors and fonts, print
as vectors, and take milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.colors import to_hex

from pipelines.report.data import finite
from pipelines.report.scales import Axis, linear, log_with_zero, thin

Points = list[tuple[float, float]]


JOINT = "joint"
"""Color of methods that combine several streams."""
COLORS = 8
"""Colors of streams, ``stream0`` to ``stream7`` in figures.css; more streams repeat them."""


def color_of(name: str, streams: Sequence[str]) -> str:
    """Returns the color class of a method, fit or step: its stream's, or ``joint``.

    Args:
        name: belongs to a stream if it is the stream's name, alone or before ``.`` or ``_``.
        streams: all streams, in order.
    """
    owners = [s for s in streams if name == s or name.startswith((f"{s}.", f"{s}_"))]
    if not owners:
        return JOINT
    return f"stream{list(streams).index(max(owners, key=len)) % COLORS}"


def series(records: Sequence[Mapping[str, float]], key: str) -> Points:
    """Returns the (step, value) of the records that have a finite ``key``."""
    pairs = ((finite(record.get("step")), finite(record.get(key))) for record in records)
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def curve_svg(
    name: str, records: Sequence[Mapping[str, float]], color: str = JOINT
) -> Markup | None:
    """Draws one fit: above, the validation score (higher is better); below, the training loss.

    The step that was kept is marked: the one whose record has ``kept``, else the last. Scores
    within 0..1 are drawn on that whole range, so that curves can be compared.

    Returns:
        None where no record has a score or a loss.
    """
    score, loss = series(records, "score"), series(records, "loss")
    steps = [step for step, _ in score + loss]
    if not steps:
        return None
    left, right, top = 38, 318, 10
    x = linear(min(0, *steps), max(steps), left, right)
    # The last round tick may be far beyond the last step; the curve fills its panel.
    span = (max(steps) - min(0, *steps)) or 1
    x = Axis(lambda v: left + (v - min(0, *steps)) / span * (right - left), x.ticks)
    parts: list[Markup] = []
    if score:
        bottom = top + (116 if loss else 190)
        values = [value for _, value in score]
        low, high = (0, 1) if min(values) >= 0 and max(values) <= 1 else (min(values), max(values))
        y = linear(low, high, bottom, top)
        parts += [_panel(y, left, right), _path(score, x, y, f"var(--{color})")]
        parts.append(_kept_point(_kept(records, score), x, y, color, right))
        parts.append(_caption("score", left + 5, bottom - 14, ""))
        top = bottom + 22
    if loss:
        bottom = 210
        values = [value for _, value in loss]
        y = linear(min(0, *values), max(values), bottom, top, steps=2)
        parts += [
            _panel(y, left, right),
            _path(loss, x, y, None),
            _caption("loss", right - 3, top, "end"),
        ]
    parts.append(_bottom_axis(x, bottom, left, right))
    return _svg(Markup("").join(parts), 340, 230, f"Training curve of {name}")


def _kept(records: Sequence[Mapping[str, float]], score: Points) -> tuple[float, float]:
    kept = {record["step"] for record in records if record.get("kept")}
    return next((point for point in score if point[0] in kept), score[-1])


def _kept_point(point: tuple[float, float], x: Axis, y: Axis, color: str, right: float) -> Markup:
    step, value = point
    px, py = x.place(step), y.place(value)
    anchor = "end" if px > (right + 38) / 2 else ""
    below = py + 16 if py < 30 else py - 8
    return Markup(
        '<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="var(--{})" stroke="var(--card)" '
        'stroke-width="1.5"/><text class="strong {}" x="{:.1f}" y="{:.1f}">{:.3f}</text>'
    ).format(px, py, color, anchor, px + (4 if anchor else -2), below, value)


def search_svg(
    trials: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    key: str,
    title: str,
    write: Callable[[Any], str],
) -> Markup:
    """Draws the trials over λ2 (across) and λ3 (up), both logarithmic with a lane for zero.

    Args:
        trials: with ``lambda2``, ``lambda3`` and ``key``; without a ``key`` they are hollow.
        best: the selected trial, marked by a ring; {} for none.
        key: the value that colors the points.
        title: heading, also of the color bar.
        write: formats a value of ``key``.
    """
    left, right, top, bottom = 52, 380, 34, 284
    x = log_with_zero([trial["lambda2"] for trial in trials], left, right)
    y = log_with_zero([trial["lambda3"] for trial in trials], bottom, top)
    values = [value for trial in trials if (value := finite(trial.get(key))) is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    parts = [
        _lattice(x, y),
        Markup('<text class="strong" x="{}" y="14">{}</text>').format(left, title),
    ]
    # Worst first, so that a bad trial never hides a good one.
    for trial in sorted(
        trials, key=lambda t: (finite(t.get(key)) is not None, finite(t.get(key)) or 0)
    ):
        parts.append(_trial(trial, x, y, finite(trial.get(key)), low, high, title, write))
    if best and "lambda2" in best and "lambda3" in best:
        parts.append(
            Markup(
                '<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="10"><title>chosen</title></circle>'
            ).format(x.place(best["lambda2"]), y.place(best["lambda3"]))
        )
    if values:
        parts.append(_color_bar(low, high, right + 14, top, bottom, write))
    return _svg(Markup("").join(parts), 450, 326, f"{title} of every trial over λ2 and λ3")


def _trial(
    trial: Mapping[str, Any],
    x: Axis,
    y: Axis,
    value: float | None,
    low: float,
    high: float,
    title: str,
    write: Callable[[Any], str],
) -> Markup:
    tip = (
        f"λ2 = {trial['lambda2']:.3g}, λ3 = {trial['lambda3']:.3g}: {title.lower()} {write(value)}"
    )
    look = Markup('class="failed"')
    if value is not None:
        look = Markup('class="trial" fill="{}"').format(_shade((value - low) / ((high - low) or 1)))
    return Markup('<circle {} cx="{:.1f}" cy="{:.1f}" r="6"><title>{}</title></circle>').format(
        look, x.place(trial["lambda2"]), y.place(trial["lambda3"]), tip
    )


def _lattice(x: Axis, y: Axis) -> Markup:
    left, right, top, bottom = 52, 380, 34, 284
    parts = [
        Markup('<rect class="plot" x="{}" y="{}" width="{}" height="{}"/>').format(
            left, top, right - left, bottom - top
        )
    ]
    for value, text in x.ticks:
        px = x.place(value)
        parts.append(
            Markup(
                '<path class="grid" d="M{0:.1f} {1}V{2}"/><text class="middle" '
                'x="{0:.1f}" y="{3}">{4}</text>'
            ).format(px, top, bottom, bottom + 16, text)
        )
    for value, text in y.ticks:
        py = y.place(value)
        parts.append(
            Markup(
                '<path class="grid" d="M{1} {0:.1f}H{2}"/><text class="end" x="{3}" '
                'y="{4:.1f}">{5}</text>'
            ).format(py, left, right, left - 7, py + 4, text)
        )
    if x.break_px is not None:
        parts.append(
            Markup('<path class="break" d="M{:.1f} {}V{}"/>').format(x.break_px, top, bottom)
        )
    if y.break_px is not None:
        parts.append(
            Markup('<path class="break" d="M{} {:.1f}H{}"/>').format(left, y.break_px, right)
        )
    parts.append(
        Markup(
            '<text class="ink middle" x="{}" y="{}">λ2 (rows)</text><text class="ink '
            'middle" transform="translate(12 {}) rotate(-90)">λ3 (entries)</text>'
        ).format((left + right) / 2, bottom + 36, (top + bottom) / 2)
    )
    return Markup("").join(parts)


def _color_bar(
    low: float, high: float, x: float, top: float, bottom: float, write: Callable[[Any], str]
) -> Markup:
    steps = 24
    tall = (bottom - top) / steps
    bars = Markup("").join(
        Markup('<rect x="{}" y="{:.1f}" width="9" height="{:.1f}" fill="{}"/>').format(
            x, bottom - (k + 1) * tall, tall + 0.5, _shade((k + 0.5) / steps)
        )
        for k in range(steps)
    )
    ends = Markup('<text x="{0}" y="{1}">{2}</text><text x="{0}" y="{3}">{4}</text>').format(
        x + 13, top + 9, write(high), bottom, write(low)
    )
    return bars + ends


def _shade(share: float) -> str:
    """Returns viridis without its darkest tenth, which is invisible on a dark page."""
    return to_hex(matplotlib.colormaps["viridis"](0.12 + 0.86 * share))


def _panel(y: Axis, left: float, right: float) -> Markup:
    return Markup("").join(
        Markup(
            '<path class="grid" d="M{} {:.1f}H{}"/><text class="end" x="{}" y="{:.1f}">{}</text>'
        ).format(left, y.place(value), right, left - 6, y.place(value) + 4, text)
        for value, text in y.ticks
    )


def _bottom_axis(x: Axis, bottom: float, left: float, right: float) -> Markup:
    ticks = [(x.place(value), text) for value, text in x.ticks]
    parts = [
        Markup('<text class="middle" x="{:.1f}" y="{}">{}</text>').format(px, bottom + 16, text)
        for px, text in ticks
        if px <= right + 1
    ]
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(left, bottom, right))
    return Markup("").join(parts)


def _path(points: Points, x: Axis, y: Axis, color: str | None) -> Markup:
    shown = thin(points, 240)
    places = "L".join(f"{x.place(step):.1f} {y.place(value):.1f}" for step, value in shown)
    look = Markup('class="line" stroke="{}"').format(color) if color else Markup('class="thin"')
    if len(shown) == 1:
        places += "h0.01"
    return Markup('<path {} d="M{}"/>').format(look, places)


def _caption(text: str, x: float, top: float, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" style="font-size:10px">{}</text>').format(
        anchor, x, top + 11, text
    )


def _svg(body: Markup, width: int, height: int, label: str) -> Markup:
    return Markup(
        '<svg class="figure" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(width, height, label, body)


def panel_svg(
    points: Points, *, sizes: Sequence[float], across: str, up: str, label: str
) -> Markup:
    """Draws connected points in the unit square, with its diagonal for comparison.

    Args:
        sizes: size of each dot, 0..1.
    """
    left, right, top, bottom = 44, 318, 10, 284
    x, y = linear(0, 1, left, right), linear(0, 1, bottom, top)
    parts = [
        _panel(y, left, right),
        Markup('<path class="break" d="M{} {}L{} {}"/>').format(left, bottom, right, top),
        _path(points, x, y, "var(--joint)"),
    ]
    parts += [
        Markup('<circle class="hit" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(
            x.place(one), y.place(other), 2 + 8 * size
        )
        for (one, other), size in zip(points, sizes, strict=True)
    ]
    parts.append(_bottom_axis(x, bottom, left, right))
    parts.append(
        Markup(
            '<text class="ink middle" x="{}" y="{}">{}</text><text class="ink middle" '
            'transform="translate(11 {}) rotate(-90)">{}</text>'
        ).format((left + right) / 2, bottom + 34, across, (top + bottom) / 2, up)
    )
    return _svg(Markup("").join(parts), 330, 324, label)

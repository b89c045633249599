"""Computes the comparison's figures and tests from every row's scores on every split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.report.comparison import ComparedRow, Comparison
from pipelines.systems.rows import TableRow, Tables
from trainers.metrics.measures import mean_average_precision, summary
from trainers.metrics.significance import Paired, bootstrap_map, mcnemar

if TYPE_CHECKING:
    from pipelines.steps.compare import ComparedSplit


def summarize(
    splits: Sequence[ComparedSplit],
    rows: Sequence[TableRow],
    *,
    tables: Tables,
    data: str,
    command: str,
    classes: Sequence[str],
    multi_label: bool,
) -> Comparison:
    """Means and spreads over splits, and each row's tests against the reference.

    Args:
        rows: the reference of the tables is among them.
        data: name of the data set.
    """
    figure = tables.figure
    drawn = figure and all({tables.reference, figure.after} <= set(one.scores) for one in splits)
    return Comparison(
        title=f"{data}: the {tables.noun} and what it is compared with",
        tables=tables,
        command=command,
        multi_label=multi_label,
        splits=[split.name for split in splits],
        clips=sum(len(split.ids) for split in splits),
        classes=classes,
        rows=[_row(splits, row, tables.reference, multi_label=multi_label) for row in rows],
        ap_before=_precisions(splits, tables.reference) if drawn else None,
        ap_after=_precisions(splits, figure.after) if figure and drawn else None,
    )


def _row(
    splits: Sequence[ComparedSplit], row: TableRow, reference: str, *, multi_label: bool
) -> ComparedRow:
    found = [
        summary(
            split.scores[row.name],
            split.targets.truth(),
            multi_label=multi_label,
        )
        for split in splits
    ]
    accuracy, spread = _mean(found, "accuracy")
    precision, precision_spread = _mean(found, "map")
    assert precision is not None
    return ComparedRow(
        table=row.table,
        name=row.name,
        label=row.label,
        accuracy=accuracy,
        accuracy_spread=spread,
        mean_class_accuracy=_mean(found, "mean_class_accuracy")[0],
        map=precision,
        map_spread=precision_spread,
        **_tests(splits, row.name, reference, multi_label=multi_label),
        ucf101=row.published[0],
        ccv=row.published[1],
        seconds=sum(split.facts[row.name]["seconds"] for split in splits),
        absence=row.absence,
        chosen="; ".join(
            text for split in splits if (text := describe(split.facts[row.name]["chosen"]))
        ),
    )


def describe(chosen: Mapping[str, Any]) -> str:
    """For instance ``C 10, weight.spatial 0.612``: a row's constants."""
    shown = {k: v for k, v in chosen.items() if not k.endswith(("cross_validated", "epochs"))}
    words = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
    return ", ".join(words)


def _mean(found: Sequence[Mapping[str, float]], name: str) -> tuple[float | None, float | None]:
    """Mean and standard deviation (n - 1) over splits; None where there is none."""
    if name not in found[0]:
        return None, None
    values = [measures[name] for measures in found]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _tests(
    splits: Sequence[ComparedSplit], name: str, reference: str, *, multi_label: bool
) -> dict[str, float | None]:
    """Tests of the row against the reference; all None for the reference itself."""
    empty = ("p_mcnemar", "map_difference", "map_low", "map_high", "p_bootstrap")
    if name == reference:
        return dict.fromkeys(empty)
    parts = [
        Paired(
            split.scores[name],
            split.scores[reference],
            split.targets.dense(np.float64),
            split.groups,
            np.array(split.ids),
        )
        for split in splits
    ]
    difference = bootstrap_map(parts)
    return {
        "p_mcnemar": None if multi_label else _mcnemar(splits, name, reference),
        "map_difference": difference.value,
        "map_low": difference.low,
        "map_high": difference.high,
        "p_bootstrap": difference.p,
    }


def _mcnemar(splits: Sequence[ComparedSplit], name: str, reference: str) -> float:
    """Over the test clips of all splits; one that several splits test counts where it is first."""
    seen: set[str] = set()
    right, other = [], []
    for split in splits:
        fresh = np.array([clip not in seen for clip in split.ids], bool)
        seen.update(split.ids)
        truth = split.targets.classes()
        right.append((split.scores[name].argmax(1) == truth)[fresh])
        other.append((split.scores[reference].argmax(1) == truth)[fresh])
    return mcnemar(np.concatenate(right), np.concatenate(other))


def _precisions(splits: Sequence[ComparedSplit], name: str) -> NDArray[np.float64]:
    """(C,) mean over the splits that have a test clip of the class; NaN where none has."""
    found = np.stack(
        [
            mean_average_precision(split.scores[name], split.targets.dense(int)).per_class
            for split in splits
        ]
    )
    there = np.isfinite(found)
    counts = there.sum(0)
    sums = np.where(there, found, 0.0).sum(0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

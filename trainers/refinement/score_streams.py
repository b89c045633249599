"""Tables of several systems' scores, and what all ways to join them share.

A score table is a `Table` whose features are the systems' scores, (N, C) each; a clip for which a
system has no score is absent there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from trainers.metrics.measures import accuracy, mean_average_precision
from trainers.table import Table
from trainers.targets import Targets

Floats = NDArray[np.float64]
Given = Literal["logits", "probabilities"]

LEAST_PROBABILITY = 1e-7
"""Probabilities are kept this far from 0 (and, of several labels, from 1) before the logarithm."""


class ScoreMethod(Protocol):
    """A way to join and refine the scores of several systems.

    ``fit`` takes a table of logits, its targets and groups; ``predict_scores`` gives (N, C)
    probabilities; those of one clip do not depend on the other clips.
    """

    def fit(self, table: Table) -> Self: ...

    def predict_scores(self, table: Table) -> Floats: ...


def score_table(
    scores: Mapping[str, ArrayLike],
    targets: Targets | None = None,
    *,
    groups: ArrayLike | None = None,
) -> Table:
    """A table in double precision of scores whose absent rows hold NaN.

    Args:
        scores: system -> (N, C); the row of a clip for which it has no score is NaN throughout.
        targets: of the N clips; default: no label is known.
        groups: see `Table.of`.

    Raises:
        ValueError: no system, shapes that differ, a score that is not finite in a row that is not
            NaN throughout, or a clip without any score.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in scores.items()}
    wrong = {name: v.shape for name, v in arrays.items() if v.ndim != 2}
    if wrong:
        raise ValueError(f"scores must all be (N, C) of one shape, got {wrong}")
    present = {name: ~np.isnan(values).all(1) for name, values in arrays.items()}
    table = Table.of(arrays, present, targets, groups=groups)
    check_scores(table)
    return table


def check_scores(table: Table) -> None:
    """Raises ValueError for widths that differ, or a clip without any score."""
    if len(set(table.widths.values())) > 1:
        raise ValueError(f"scores must all have the same number of classes, got {table.widths}")
    table.check_everywhere()


def logit_table(table: Table, *, given: Given, multi_label: bool) -> Table:
    """A table of scores as the systems give them, as logits in double precision.

    Raises:
        ValueError: see `check_scores`; probabilities outside of 0..1.
    """
    check_scores(table)
    if given == "logits":
        return table.astype(np.float64)
    logits: dict[str, Any] = {}
    for name, values in table.features.items():
        if (values < 0).any() or (values > 1 + 1e-6).any():
            raise ValueError(f"scores of {name!r} are not probabilities: some lie outside of 0..1")
        there = table.present[name][:, None]
        logits[name] = np.where(there, to_logits(values, multi_label=multi_label), 0.0)
    return replace(table, features=logits)


def stacked(table: Table) -> tuple[Floats, NDArray[np.bool_]]:
    """(S, N, C) scores, those of a clip contiguous in memory, and (S, N) presence."""
    scores = np.stack(list(table.features.values()), axis=1)
    return scores.transpose(1, 0, 2), table.there.T


def to_logits(probabilities: ArrayLike, *, multi_label: bool = False) -> Floats:
    """log p; of several labels log p / (1 - p). `to_probabilities` is the inverse."""
    p = np.clip(np.asarray(probabilities, np.float64), LEAST_PROBABILITY, None)
    if not multi_label:
        return np.log(p)
    p = np.minimum(p, 1 - LEAST_PROBABILITY)
    return np.log(p) - np.log1p(-p)


def to_probabilities(logits: ArrayLike, *, multi_label: bool = False) -> Floats:
    """The softmax over the last axis, or of several labels a sigmoid for each class."""
    z = np.asarray(logits, np.float64)
    if multi_label:
        return 0.5 * (1 + np.tanh(0.5 * z))
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def log_loss(logits: Floats, targets: NDArray[np.bool_], *, multi_label: bool = False) -> float:
    """Mean over clips of the cross-entropy; of several labels summed over the classes.

    Args:
        logits: (N, C).
        targets: (N, C); of single-label clips one true class in each row.
    """
    if multi_label:
        # log(1 + e^z) - t z, with no overflow for large z.
        losses = np.maximum(logits, 0) - targets * logits + np.log1p(np.exp(-np.abs(logits)))
        return float(losses.sum(1).mean())
    top = logits.max(1)
    total = np.log(np.exp(logits - top[:, None]).sum(1)) + top
    return float(np.mean(total - logits[targets]))


def find_temperature(
    logits: Floats, targets: NDArray[np.bool_], *, multi_label: bool = False
) -> float:
    """T in [1e-3, 1e4] for which the softmax (sigmoid) of logits / T has the least log loss."""

    def loss(log_inverse: float) -> float:
        return log_loss(logits * np.exp(log_inverse), targets, multi_label=multi_label)

    bounds = (-np.log(1e4), -np.log(1e-3))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(-found.x))


def check_targets(table: Table, *, multi_label: bool) -> NDArray[np.bool_]:
    """(N, C) dense targets that fit the table's scores.

    Raises:
        ValueError: targets of another number of classes or of the other kind, or single-label
            clips without a label.
    """
    targets, classes = table.targets, next(iter(table.widths.values()))
    if targets.n_classes != classes:
        raise ValueError(f"scores of {classes} classes, targets of {targets.n_classes}")
    if targets.multi_label != multi_label:
        kinds = {True: "multi-label", False: "single-label"}
        raise ValueError(
            f"the method is {kinds[multi_label]}, its targets are {kinds[targets.multi_label]}"
        )
    if not multi_label:
        targets.classes()
    return targets.dense(bool)


def main_measure(scores: Floats, targets: NDArray[np.bool_], *, multi_label: bool) -> float:
    """Accuracy; of multi-label clips mAP (0 where no class has a positive)."""
    if not multi_label:
        return accuracy(scores, targets.argmax(1))
    value = mean_average_precision(scores, targets).value
    return value if np.isfinite(value) else 0.0

"""Contextual refinement: scores of related classes support each other (Hybrid paper, Eq. 6, 7).

As printed, and with R shrunk toward the identity as far as an inner cross-validation says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainers.fit.folds import group_folds
from trainers.metrics.measures import as_targets
from trainers.refinement.late_fusion import MeanOfLogits, MeanOfProbabilities
from trainers.refinement.score_streams import (
    Floats,
    check_targets,
    main_measure,
)
from trainers.table import Table

SHRINKAGES = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1, 0.0)
"""Shares of the identity that are tried; of equally good ones the first."""


def confusion_refinement(scores: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Fits R on the validation split: R_ij is the share of class i's videos predicted as j.

    Rows are the truth. A video with several labels counts once in the row of each of them, always
    at its top class: Eq. 6 read literally, whose pairs (x, C_i) include every label of a video.
    R_ij then also counts how often j, whether true or not, is the top class of a video of class i.
    A video without a label counts nowhere.

    Args:
        scores: (N, C) ensemble scores of videos that trained nothing; of equal ones the lower
            class index is the prediction.
        truth: (N,) class indices, or (N, C) zeros and ones.

    Returns:
        (C, C) float64; each row sums to 1. A class without a validation video has the identity's
        row.

    Raises:
        ValueError: shapes that do not match, labels out of range, or scores that are not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite (N, C), got {scores.shape}")
    targets = as_targets(truth, scores.shape[1])
    if len(targets) != len(scores):
        raise ValueError(f"{len(scores)} rows of scores, {len(targets)} of truth")
    predicted = np.eye(scores.shape[1])[scores.argmax(1)]
    counts = targets.T.astype(np.float64) @ predicted
    totals = counts.sum(1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.eye(scores.shape[1]))


def refine(
    scores: ArrayLike, refinement: ArrayLike, *, normalize: bool = False
) -> NDArray[np.float64]:
    """Returns p with p_i = sum_j R_ij f_j(x) for each video (Eq. 7).

    Args:
        scores: (N, C) f(x).
        refinement: (C, C) R, rows the truth.
        normalize: divide each video's p by its sum, so that single-label scores stay
            probabilities. A video whose p is all zero (its whole score is on classes that no
            validation video was predicted as) keeps f, divided by its sum.

    Returns:
        (N, C) float64.

    Raises:
        ValueError: shapes that do not match, or negative scores with ``normalize``.
    """
    scores = np.asarray(scores, np.float64)
    refinement = np.asarray(refinement, np.float64)
    if scores.ndim != 2 or refinement.shape != (scores.shape[1], scores.shape[1]):
        raise ValueError(f"scores {scores.shape} do not match a refinement of {refinement.shape}")
    refined = scores @ refinement.T
    if not normalize:
        return refined
    if (scores < 0).any():
        raise ValueError(f"can't normalize scores with negative values (least: {scores.min()})")
    sums = refined.sum(1, keepdims=True)
    kept = np.where(sums > 0, refined, scores)
    totals = kept.sum(1, keepdims=True)
    return np.divide(kept, totals, out=np.zeros_like(kept), where=totals > 0)


@dataclass
class ContextualRefinement:
    """p = R f(x), f being the mean of the systems' scores.

    Args:
        base: how that mean is taken.
        normalize: see `refine`; multi-label scores never are.
        shrink: R becomes k I + (1 - k) R, k chosen by inner cross-validation by group for the main
            measure; of equally good ones the nearest to the identity. Without it, as printed.
    """

    base: MeanOfLogits | MeanOfProbabilities
    multi_label: bool = False
    normalize: bool = True
    shrink: bool = False
    inner_folds: int = 5
    matrix: Floats = field(default_factory=lambda: np.eye(1), init=False)
    """(C, C) R, shrunk."""
    shrinkage: float = field(default=0.0, init=False)
    """k."""

    def fit(self, table: Table) -> Self:
        targets = check_targets(table, multi_label=self.multi_label)
        scores = self.base.fit(table).predict_scores(table)
        self.shrinkage = self._choose(scores, targets, table.groups) if self.shrink else 0.0
        self.matrix = _shrunk(confusion_refinement(scores, targets), self.shrinkage)
        return self

    def predict_scores(self, table: Table) -> Floats:
        return self._refined(self.base.predict_scores(table), self.matrix)

    def _refined(self, scores: Floats, matrix: Floats) -> Floats:
        return refine(scores, matrix, normalize=self.normalize and not self.multi_label)

    def _choose(self, scores: Floats, targets: NDArray[np.bool_], groups: NDArray) -> float:
        if len(np.unique(groups)) < 2:
            return 1.0
        held_out = {k: np.empty_like(scores) for k in SHRINKAGES}
        for rows, held in group_folds(groups, self.inner_folds):
            matrix = confusion_refinement(scores[rows], targets[rows])
            for k in SHRINKAGES:
                held_out[k][held] = self._refined(scores[held], _shrunk(matrix, k))
        found = [
            main_measure(held_out[k], targets, multi_label=self.multi_label) for k in SHRINKAGES
        ]
        return SHRINKAGES[int(np.argmax(np.round(found, 9)))]


def _shrunk(matrix: Floats, share: float) -> Floats:
    return share * np.eye(len(matrix)) + (1 - share) * matrix

"""The measures of a classifier, each defined once.

Scores are (N, C) arrays, larger meaning likelier; they need not be probabilities. ``labels`` are
(N,) class indices of single-label videos, ``targets`` (N, C) arrays of 0 and 1. Of equal scores of
one video the lower class index ranks first; among the videos of a pool equal scores count as one
step, so that no result depends on the order of the videos. Where scikit-learn has the measure, both
agree.

Every measure is here as a function of all videos; `trainers.metrics.accumulators` has the same ones
batch by batch, for sets too large for memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of videos whose top class is the true one. ``scores`` (N, C), ``labels`` (N,)."""
    scores, labels = check_single_label(scores, labels)
    return float(np.mean(scores.argmax(1) == labels))


def mean_class_accuracy(
    scores: ArrayLike, labels: ArrayLike, *, count_predicted: bool = False
) -> float:
    """Mean of the recalls of the classes that occur in ``labels`` (balanced accuracy).

    ``count_predicted``: classes that only occur among the predictions count as 0, as in MMAction2.
    """
    scores, labels = check_single_label(scores, labels)
    matrix = confusion_matrix(scores.argmax(1), labels, scores.shape[1])
    return mean_recall(matrix, count_predicted=count_predicted)


def mean_recall(matrix: Ints, *, count_predicted: bool = False) -> float:
    """See `mean_class_accuracy`; of a (C, C) confusion matrix."""
    totals = matrix.sum(1)
    counted = (totals > 0) | (matrix.sum(0) > 0) if count_predicted else totals > 0
    return float(np.mean((np.diag(matrix) / np.maximum(totals, 1))[counted]))


def hit_at_k(scores: ArrayLike, truth: ArrayLike, k: int) -> float:
    """Share of videos with a true class among their k best. ``truth``: labels or targets.

    A video without any label counts as a miss, as in the YouTube-8M evaluation.
    """
    scores = _scores(scores)
    targets = as_targets(truth, scores.shape[1])
    return float(np.mean(np.take_along_axis(targets, top_k(scores, k), axis=1).any(1)))


def precision_at_equal_recall(scores: ArrayLike, targets: ArrayLike) -> float:
    """PERR: mean share of true classes among as many best classes as the video has labels.

    A video without any label counts as 0, as in the YouTube-8M evaluation.
    """
    scores, targets = check_multi_label(scores, targets)
    ranked = np.take_along_axis(targets, top_k(scores, scores.shape[1]), axis=1)
    counts = targets.sum(1)
    hits = np.where(np.arange(scores.shape[1]) < counts[:, None], ranked, False).sum(1)
    return float(np.mean(hits / np.maximum(counts, 1)))


def average_precision(
    scores: ArrayLike, relevant: ArrayLike, positives: int | None = None, *, n: int | None = None
) -> float:
    """Area under the precision-recall steps, without interpolation.

    Args:
        scores: (N,) scores; equal ones make one step.
        relevant: (N,) 0 or 1.
        positives: number of all positives, where some are not in the list; default: those in it.
        n: AP@n: only the n best are looked at, and recall is over the positives that could be among
            them, min(n, positives). Of equal scores that reach beyond n, as many as there is room
            for, with the share of positives that they all have.

    Raises:
        ValueError: there is no positive, so that recall is undefined.
    """
    scores, relevant = np.asarray(scores, float), np.asarray(relevant).astype(bool)
    if scores.ndim != 1 or scores.shape != relevant.shape:
        raise ValueError(f"scores {scores.shape} and relevant {relevant.shape} must both be (N,)")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: they can't be ranked")
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, got {n!r}")
    total = int(relevant.sum()) if positives is None else positives
    if total < 1:
        raise ValueError("average precision needs at least one positive, there are none")
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(relevant[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    counts, seen = found[ends].astype(np.float64), (ends + 1).astype(np.float64)
    if n is not None:
        total = min(n, total)
        if n < len(scores):
            counts, seen = _first(n, counts, seen)
    gained = np.diff(counts, prepend=0)
    return float(np.sum(gained / total * counts / seen))


def _first(n: int, counts: Floats, seen: Floats) -> tuple[Floats, Floats]:
    """Positives and entries at the end of each step, the step that passes n cut there."""
    last = int(np.searchsorted(seen, n))
    before = np.array([0.0, 0.0]) if last == 0 else np.array([counts[last - 1], seen[last - 1]])
    share = (n - before[1]) / (seen[last] - before[1])
    at_n = before[0] + share * (counts[last] - before[0])
    return np.append(counts[:last], at_n), np.append(seen[:last], float(n))


@dataclass(frozen=True)
class MeanAveragePrecision:
    """mAP and what it is made of."""

    value: float
    """Mean of the per-class average precisions that exist; NaN where none does."""
    per_class: Floats
    """(C,) average precisions, NaN for a class without a positive."""
    left_out: tuple[str, ...]
    """Names of the classes without a positive, which the mean leaves out."""


def mean_average_precision(
    scores: ArrayLike, truth: ArrayLike, *, classes: Sequence[str] | None = None
) -> MeanAveragePrecision:
    """Macro mAP over the classes with a positive. ``truth``: (N,) labels or (N, C) targets.

    ``classes`` names those left out; without it they are named by their index.
    """
    scores = _scores(scores)
    targets = as_targets(truth, scores.shape[1])
    per_class = np.full(scores.shape[1], np.nan)
    for index in np.flatnonzero(targets.any(0)):
        per_class[index] = average_precision(scores[:, index], targets[:, index])
    return mean_precision(per_class, classes)


def mean_precision(per_class: Floats, classes: Sequence[str] | None) -> MeanAveragePrecision:
    """See `mean_average_precision`; of (C,) average precisions, NaN where there is none."""
    names = tuple(classes) if classes is not None else tuple(map(str, range(len(per_class))))
    if len(names) != len(per_class):
        raise ValueError(f"{len(names)} class names for scores of {len(per_class)} classes")
    has = ~np.isnan(per_class)
    value = float(per_class[has].mean()) if has.any() else float("nan")
    return MeanAveragePrecision(value, per_class, tuple(np.array(names, object)[~has]))


def gap_at_k(scores: ArrayLike, targets: ArrayLike, k: int = 20) -> float:
    """GAP@k: average precision of all videos' k best classes in one pool.

    Recall is taken over all positives, those outside the k best included (DML paper; YouTube-8M).

    Raises:
        ValueError: no video has a label.
    """
    scores, targets = check_multi_label(scores, targets)
    best = top_k(scores, k)
    pooled = np.take_along_axis(scores, best, axis=1).ravel()
    relevant = np.take_along_axis(targets, best, axis=1).ravel()
    return average_precision(pooled, relevant, int(targets.sum()))


def confusion_matrix(predicted: ArrayLike, labels: ArrayLike, n_classes: int) -> Ints:
    """(C, C) counts: rows are the truth, columns the prediction. Both arguments (N,) indices."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or predicted.ndim != 1:
        raise ValueError(f"predicted {predicted.shape} and labels {labels.shape} must both be (N,)")
    for name, values in (("predicted", predicted), ("labels", labels)):
        _check_indices(values, n_classes, name)
    flat = labels.astype(np.int64) * n_classes + predicted
    return np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)


def summary(scores: ArrayLike, truth: ArrayLike, *, multi_label: bool) -> dict[str, float]:
    """The measures that a run reports; ``score`` repeats the main one.

    Single-label (``truth`` (N,) labels): accuracy is the main one. Multi-label (``truth`` (N, C)
    targets): mAP is.
    """
    scores = _scores(scores)
    mean_ap = mean_average_precision(scores, truth).value
    if multi_label:
        return {
            "score": mean_ap,
            "map": mean_ap,
            "hit_at_1": hit_at_k(scores, truth, 1),
            "hit_at_5": hit_at_k(scores, truth, 5),
            "gap_at_20": gap_at_k(scores, truth, 20),
            "perr": precision_at_equal_recall(scores, truth),
        }
    return {
        "score": accuracy(scores, truth),
        "accuracy": accuracy(scores, truth),
        "mean_class_accuracy": mean_class_accuracy(scores, truth),
        "hit_at_5": hit_at_k(scores, truth, 5),
        "map": mean_ap,
    }


def top_k(scores: ArrayLike, k: int) -> Ints:
    """(N, min(k, C)) class indices of each video, best first; of equal ones the lower first."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k!r}")
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :k]


def as_targets(truth: ArrayLike, n_classes: int) -> NDArray[np.bool_]:
    """(N, C) booleans from (N,) labels or (N, C) zeros and ones."""
    truth = np.asarray(truth)
    if truth.ndim == 1:
        _check_indices(truth, n_classes, "labels")
        return np.asarray(truth[:, None] == np.arange(n_classes))
    if truth.ndim != 2 or truth.shape[1] != n_classes:
        raise ValueError(f"truth must be (N,) or (N, {n_classes}), got {truth.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("targets must be 0 or 1")
    return truth.astype(bool)


def _check_indices(values: NDArray, n_classes: int, name: str) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be integer class indices, got {values.dtype}")
    if values.size and not (values.min() >= 0 and values.max() < n_classes):
        raise ValueError(
            f"{name} must lie in 0..{n_classes - 1}, got {values.min()}..{values.max()}"
        )


def _scores(scores: ArrayLike) -> Floats:
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores must be (N, C) with at least one video, got {scores.shape}")
    if not np.isfinite(scores).all():
        rows = np.flatnonzero(~np.isfinite(scores).all(1))
        raise ValueError(f"scores of video rows {rows[:5].tolist()} hold NaN or infinity")
    return scores


def check_single_label(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    """Both as arrays, (N, C) and (N,). ValueError where they don't fit or can't be ranked."""
    scores, labels = _scores(scores), np.asarray(labels)
    if labels.shape != (len(scores),):
        raise ValueError(f"labels must be ({len(scores)},), got {labels.shape}")
    _check_indices(labels, scores.shape[1], "labels")
    return scores, labels


def check_multi_label(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Both as (N, C) arrays; labels do as well. ValueError where they don't fit."""
    scores = _scores(scores)
    targets = as_targets(targets, scores.shape[1])
    if len(targets) != len(scores):
        raise ValueError(f"{len(scores)} rows of scores, {len(targets)} rows of targets")
    return scores, targets

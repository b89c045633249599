"""Late fusion: one score per class from several systems' scores.

Every class here is a `score_streams.ScoreMethod`. A system that has no score for a clip is left out
of that clip's mean, and the weights of the others are scaled up to the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from trainers.metrics.measures import gap_at_k
from trainers.refinement.score_streams import (
    Floats,
    check_targets,
    find_temperature,
    log_loss,
    main_measure,
    stacked,
    to_probabilities,
)
from trainers.table import Table

Bools = NDArray[np.bool_]

MOST_WEIGHTINGS = 300
"""Most weightings that `WeightedMean` tries."""


def weighted_logits(logits: Floats, present: Bools, weights: Floats) -> Floats:
    """(N, C) sum over systems of weight times logits, (S, N, C).

    Where systems are absent, the sum is divided by the present systems' share of the weights. A
    clip whose present systems all have weight 0 gets their plain mean, times the sum of weights.
    """
    there = weights[:, None] * present
    total = there.sum(0)
    none = total <= 0
    there[:, none] = present[:, none]
    total[none] = present[:, none].sum(0)
    return np.einsum("sn,snc->nc", there * (weights.sum() / total), logits)


@dataclass
class MeanOfLogits:
    """The mean of the logits; with ``calibrate``, divided by a temperature (fitted)."""

    multi_label: bool = False
    calibrate: bool = False
    temperature: float = field(default=1.0, init=False)

    def fit(self, table: Table) -> Self:
        targets = check_targets(table, multi_label=self.multi_label)
        if self.calibrate:
            mean = self._mean(table)
            self.temperature = find_temperature(mean, targets, multi_label=self.multi_label)
        return self

    def predict_scores(self, table: Table) -> Floats:
        mean = self._mean(table) / self.temperature
        return to_probabilities(mean, multi_label=self.multi_label)

    @staticmethod
    def _mean(table: Table) -> Floats:
        return weighted_logits(*stacked(table), np.full(len(table.names), 1 / len(table.names)))


@dataclass
class MeanOfProbabilities:
    """The plain mean of the probabilities (Hybrid paper, section III-D)."""

    multi_label: bool = False

    def fit(self, table: Table) -> Self:
        check_targets(table, multi_label=self.multi_label)
        return self

    def predict_scores(self, table: Table) -> Floats:
        return mean_of_probabilities(table, multi_label=self.multi_label)


def mean_of_probabilities(
    table: Table, weights: Floats | None = None, *, multi_label: bool = False
) -> Floats:
    """(N, C) mean over the systems that a clip has, by weights that sum to 1 over these.

    Args:
        table: of logits.
        weights: (S,); default: equal ones.
    """
    logits, present = stacked(table)
    weights = np.ones(len(logits)) if weights is None else weights
    shares = weights[:, None] * present
    shares[:, shares.sum(0) <= 0] = present[:, shares.sum(0) <= 0]
    probabilities = to_probabilities(logits, multi_label=multi_label)
    return np.einsum("sn,snc->nc", shares / shares.sum(0), probabilities)


@dataclass
class TemperaturePerStream:
    """z = sum of z_s / T_s: the temperatures of all streams that together have the least log loss.

    A stream that only does harm gets weight 0 (an infinite temperature).
    """

    multi_label: bool = False
    weights: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) of the streams' logits, divided by their scales."""
    scales: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) see `stream_scales`."""

    @property
    def temperatures(self) -> Floats:
        """(S,) T."""
        return self.scales / self.weights

    def fit(self, table: Table) -> Self:
        targets = check_targets(table, multi_label=self.multi_label)
        logits, present = stacked(table)
        self.scales = stream_scales(logits, present)
        even = scaled(logits, self.scales)

        def loss(weights: Floats) -> tuple[float, Floats]:
            joined = weighted_logits(even, present, weights)
            value = log_loss(joined, targets, multi_label=self.multi_label)
            slope = to_probabilities(joined, multi_label=self.multi_label) - targets
            return value, _weights_slope(even, present, weights, joined, slope / len(slope))

        start = np.full(len(self.scales), 1 / len(self.scales))
        bounds = [(1e-6, 1e4)] * len(start)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        self.weights = found.x
        return self

    def predict_scores(self, table: Table) -> Floats:
        logits, present = stacked(table)
        joined = weighted_logits(scaled(logits, self.scales), present, self.weights)
        return to_probabilities(joined, multi_label=self.multi_label)


def _weights_slope(
    logits: Floats, present: Bools, weights: Floats, joined: Floats, slope: Floats
) -> Floats:
    """(S,) gradient of the loss in the weights of `weighted_logits`, all above 0.

    Args:
        joined: (N, C) the weighted logits.
        slope: (N, C) gradient of the loss in them.
    """
    total = weights @ present
    direct = np.einsum("nc,snc->sn", slope, logits) * present
    along = (slope * joined).sum(1)
    by_scale = along * (1 / weights.sum() - present / total)
    return (direct * (weights.sum() / total) + by_scale).sum(1)


def scaled(logits: Floats, scales: Floats) -> Floats:
    """(S, N, C) logits divided by (S,) scales."""
    return logits / scales[:, None, None]


def stream_scales(logits: Floats, present: Bools) -> Floats:
    """(S,) root mean square of each stream's logits about their clip's mean; 1 where that is 0."""
    centered = logits - logits.mean(2, keepdims=True)
    counts = np.maximum(present.sum(1), 1) * logits.shape[2]
    scales = np.sqrt((centered**2).sum((1, 2)) / counts)
    return np.where(scales > 0, scales, 1.0)


@dataclass
class GapWeighted:
    """Probabilities weighted by alpha_s = GAP_s / sum GAP (DML paper, its ensemble; GAP@20)."""

    multi_label: bool = False
    k: int = 20
    weights: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) sum 1."""

    def fit(self, table: Table) -> Self:
        targets = check_targets(table, multi_label=self.multi_label)
        gaps = np.zeros(len(table.names))
        for s, (name, there) in enumerate(table.present.items()):
            if there.any() and targets[there].any():
                scores = to_probabilities(table.features[name][there], multi_label=self.multi_label)
                gaps[s] = gap_at_k(scores, targets[there], self.k)
        self.weights = gaps / gaps.sum() if gaps.sum() > 0 else np.full(len(gaps), 1 / len(gaps))
        return self

    def predict_scores(self, table: Table) -> Floats:
        return mean_of_probabilities(table, self.weights, multi_label=self.multi_label)


@dataclass
class WeightedMean:
    """Logits scaled to equal spread, with the weights that are best on the clips of the fit.

    The systems are not trained here, so the measure on these clips is the cross-validated one as
    long as they trained none of the systems. All weightings on a lattice of the simplex are tried;
    of equally good ones the nearest to equal weights is taken. A temperature makes the result
    probabilities.
    """

    multi_label: bool = False
    weights: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) of the streams' logits, divided by their scales; the temperature included."""
    scales: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) see `stream_scales`."""

    def fit(self, table: Table) -> Self:
        targets = check_targets(table, multi_label=self.multi_label)
        logits, present = stacked(table)
        self.scales = stream_scales(logits, present)
        even = scaled(logits, self.scales)
        best, best_score = np.zeros(0), -np.inf
        for weights in lattice(len(self.scales)):
            joined = weighted_logits(even, present, weights)
            score = main_measure(joined, targets, multi_label=self.multi_label)
            if score > best_score + 1e-12:
                best, best_score = weights, score
        joined = weighted_logits(even, present, best)
        self.weights = best / find_temperature(joined, targets, multi_label=self.multi_label)
        return self

    def predict_scores(self, table: Table) -> Floats:
        logits, present = stacked(table)
        joined = weighted_logits(scaled(logits, self.scales), present, self.weights)
        return to_probabilities(joined, multi_label=self.multi_label)


def lattice(size: int) -> list[Floats]:
    """Points of the simplex in `size` dimensions, nearest to equal weights first.

    Equal weights, and all multiples of 1/n with sum 1 for the largest n of 20, 10, 6, 5, ... 1 that
    gives no more than `MOST_WEIGHTINGS`.
    """
    steps = next(
        (n for n in (20, 10, 6, 5, 4, 3, 2) if comb(n + size - 1, size - 1) <= MOST_WEIGHTINGS),
        1,
    )
    bars = combinations(range(steps + size - 1), size - 1)
    points = [
        np.diff([-1, *places, steps + size - 1]).astype(float) / steps - 1 / steps
        for places in bars
    ]
    equal = np.full(size, 1 / size)
    return [equal, *sorted(points, key=lambda point: round(float(((point - equal) ** 2).sum()), 9))]

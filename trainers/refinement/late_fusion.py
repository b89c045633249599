"""Late fusion: one score per class from several systems' scores.

Every class here has the shape of `score_streams.ScoreMethod`. A system that has no score for a clip
is left out of that clip's mean, and the weights of the others are scaled up to the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from trainers.metrics.measures import gap_at_k
from trainers.refinement.score_streams import (
    Floats,
    Stack,
    Streams,
    as_stack,
    check_truth,
    find_temperature,
    log_loss,
    main_measure,
    to_probabilities,
)

MOST_WEIGHTINGS = 300
"""Weightings that `WeightedMean` tries at most."""


def weighted_logits(stack: Stack, weights: Floats) -> Floats:
    """(N, C) sum over systems of weight times logits.

    Where systems are absent, the sum is divided by the share of the weights that is there; a clip
    whose present systems all have weight 0 gets their plain mean, at the scale of the whole.
    """
    there = weights[:, None] * stack.present
    total = there.sum(0)
    none = total <= 0
    there[:, none] = stack.present[:, none]
    total[none] = stack.present[:, none].sum(0)
    return np.einsum("sn,snc->nc", there * (weights.sum() / total), stack.logits)


@dataclass
class MeanOfLogits:
    """The mean of the logits; with ``calibrate``, divided by a temperature (fitted)."""

    multi_label: bool = False
    calibrate: bool = False
    temperature: float = field(default=1.0, init=False)

    def fit(self, streams: Streams, truth: ArrayLike, *, groups: ArrayLike | None = None) -> Self:
        stack = as_stack(streams)
        targets = check_truth(stack, truth, multi_label=self.multi_label)
        if self.calibrate:
            mean = self._mean(stack)
            self.temperature = find_temperature(mean, targets, multi_label=self.multi_label)
        return self

    def predict_scores(self, streams: Streams) -> Floats:
        mean = self._mean(as_stack(streams)) / self.temperature
        return to_probabilities(mean, multi_label=self.multi_label)

    @staticmethod
    def _mean(stack: Stack) -> Floats:
        return weighted_logits(stack, np.full(len(stack.names), 1 / len(stack.names)))


@dataclass
class MeanOfProbabilities:
    """The plain mean of the probabilities (Hybrid paper, section III-D)."""

    multi_label: bool = False

    def fit(self, streams: Streams, truth: ArrayLike, *, groups: ArrayLike | None = None) -> Self:
        check_truth(as_stack(streams), truth, multi_label=self.multi_label)
        return self

    def predict_scores(self, streams: Streams) -> Floats:
        return mean_of_probabilities(as_stack(streams), multi_label=self.multi_label)


def mean_of_probabilities(
    stack: Stack, weights: Floats | None = None, *, multi_label: bool = False
) -> Floats:
    """(N, C) mean over the systems that a clip has, by weights that sum to 1 over these."""
    weights = np.ones(len(stack.names)) if weights is None else weights
    shares = weights[:, None] * stack.present
    shares[:, shares.sum(0) <= 0] = stack.present[:, shares.sum(0) <= 0]
    probabilities = to_probabilities(stack.logits, multi_label=multi_label)
    return np.einsum("sn,snc->nc", shares / shares.sum(0), probabilities)


@dataclass
class TemperaturePerStream:
    """z = sum of z_s / T_s: the temperatures of all streams with the least log loss together.

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

    def fit(self, streams: Streams, truth: ArrayLike, *, groups: ArrayLike | None = None) -> Self:
        stack = as_stack(streams)
        targets = check_truth(stack, truth, multi_label=self.multi_label)
        self.scales = stream_scales(stack)
        even = scaled(stack, self.scales)

        def loss(weights: Floats) -> tuple[float, Floats]:
            joined = weighted_logits(even, weights)
            value = log_loss(joined, targets, multi_label=self.multi_label)
            slope = to_probabilities(joined, multi_label=self.multi_label) - targets
            return value, _weights_slope(even, weights, joined, slope / len(slope))

        start = np.full(len(self.scales), 1 / len(self.scales))
        bounds = [(1e-6, 1e4)] * len(start)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        self.weights = found.x
        return self

    def predict_scores(self, streams: Streams) -> Floats:
        joined = weighted_logits(scaled(as_stack(streams), self.scales), self.weights)
        return to_probabilities(joined, multi_label=self.multi_label)


def _weights_slope(stack: Stack, weights: Floats, joined: Floats, slope: Floats) -> Floats:
    """(S,) gradient of the loss in the weights of `weighted_logits`, all above 0.

    Args:
        joined: (N, C) the weighted logits.
        slope: (N, C) gradient of the loss in them.
    """
    total = weights @ stack.present
    direct = np.einsum("nc,snc->sn", slope, stack.logits) * stack.present
    along = (slope * joined).sum(1)
    by_scale = along * (1 / weights.sum() - stack.present / total)
    return (direct * (weights.sum() / total) + by_scale).sum(1)


def scaled(stack: Stack, scales: Floats) -> Stack:
    """The streams' logits divided by (S,) scales."""
    return Stack(stack.names, stack.logits / scales[:, None, None], stack.present)


def stream_scales(stack: Stack) -> Floats:
    """(S,) root mean square of each stream's logits about their clip's mean; 1 where that is 0."""
    centered = stack.logits - stack.logits.mean(2, keepdims=True)
    counts = np.maximum(stack.present.sum(1), 1) * stack.n_classes
    scales = np.sqrt((centered**2).sum((1, 2)) / counts)
    return np.where(scales > 0, scales, 1.0)


@dataclass
class GapWeighted:
    """Probabilities weighted by alpha_s = GAP_s / sum GAP (DML paper, its ensemble; GAP@20)."""

    multi_label: bool = False
    k: int = 20
    weights: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) sum 1."""

    def fit(self, streams: Streams, truth: ArrayLike, *, groups: ArrayLike | None = None) -> Self:
        stack = as_stack(streams)
        targets = check_truth(stack, truth, multi_label=self.multi_label)
        gaps = np.zeros(len(stack.names))
        for s, there in enumerate(stack.present):
            if there.any() and targets[there].any():
                scores = to_probabilities(stack.logits[s, there], multi_label=self.multi_label)
                gaps[s] = gap_at_k(scores, targets[there], self.k)
        self.weights = gaps / gaps.sum() if gaps.sum() > 0 else np.full(len(gaps), 1 / len(gaps))
        return self

    def predict_scores(self, streams: Streams) -> Floats:
        return mean_of_probabilities(as_stack(streams), self.weights, multi_label=self.multi_label)


@dataclass
class WeightedMean:
    """Logits of equal spread, weighted as does best on the clips that it is fitted on.

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

    def fit(self, streams: Streams, truth: ArrayLike, *, groups: ArrayLike | None = None) -> Self:
        stack = as_stack(streams)
        targets = check_truth(stack, truth, multi_label=self.multi_label)
        self.scales = stream_scales(stack)
        even = scaled(stack, self.scales)
        best, best_score = np.zeros(0), -np.inf
        for weights in lattice(len(self.scales)):
            joined = weighted_logits(even, weights)
            score = main_measure(joined, targets, multi_label=self.multi_label)
            if score > best_score + 1e-12:
                best, best_score = weights, score
        joined = weighted_logits(even, best)
        self.weights = best / find_temperature(joined, targets, multi_label=self.multi_label)
        return self

    def predict_scores(self, streams: Streams) -> Floats:
        joined = weighted_logits(scaled(as_stack(streams), self.scales), self.weights)
        return to_probabilities(joined, multi_label=self.multi_label)


def lattice(size: int) -> list[Floats]:
    """Points of the simplex in `size` dimensions, nearest to equal weights first.

    Equal weights, and all multiples of 1/n with sum 1 for the largest n of 20, 10, 8, ... 1 that
    gives no more than `MOST_WEIGHTINGS`.
    """
    steps = next(
        (n for n in (20, 10, 8, 6, 5, 4, 3, 2) if comb(n + size - 1, size - 1) <= MOST_WEIGHTINGS),
        1,
    )
    bars = combinations(range(steps + size - 1), size - 1)
    points = [
        np.diff([-1, *places, steps + size - 1]).astype(float) / steps - 1 / steps
        for places in bars
    ]
    equal = np.full(size, 1 / size)
    return [equal, *sorted(points, key=lambda point: round(float(((point - equal) ** 2).sum()), 9))]

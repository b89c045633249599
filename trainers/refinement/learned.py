"""The learned refinement: a linear map of several systems' logits, shrunk to their weighted mean.

The contextual refinement's counterpart on logits:

    z(x) = sum_s (a_s I + A_s) z_s(x) + c,

fitted by cross-entropy on clips that trained none of the systems, with
1/2 strength (sum_s |A_s|^2 + |c|^2) added. Row i of A_s says which classes' evidence class i
borrows; a_s, the stream's weight, is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from trainers.fit.folds import Fold, Rows, group_folds
from trainers.refinement.late_fusion import MeanOfLogits, MeanOfProbabilities
from trainers.refinement.logit_map import INPUTS, fit_maps, map_table, mapped
from trainers.refinement.score_streams import (
    Floats,
    check_targets,
    find_temperature,
    log_loss,
    to_probabilities,
)
from trainers.table import Table
from trainers.targets import Targets

STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Tried in this order, each fit starting from the one before, until the loss gets worse."""
MOST_PRODUCTS = 5e9
"""Clips x streams x classes², to which the time of a fit is proportional. Above it the time is
limited by two inner folds, and by learning from a share of each class's clips."""
FEWEST_PER_CLASS = 10
"""Where that share would leave fewer clips for each class, nothing is learned."""


@dataclass
class LearnedRefinement:
    """Fits a_s, A_s and c; the strength by inner cross-validation by group, for the log loss.

    Each stream's logits are centered by clip (single-label; the softmax does not see the mean) and
    divided by the stream's own temperature, so that one strength fits all. A stream that a clip
    lacks adds nothing, and the sum over the others is multiplied by the number of streams over
    that of those present.

    Where the clips are too few to learn from, the scores are the plain mean and ``fallback`` says
    why: fewer than two groups; most classes' clips all in one group, so that nothing learned of a
    class can be checked on it; more classes than `most_products` leaves `FEWEST_PER_CLASS` clips
    of; or a held-out log loss above that of the plain mean (with its temperature).

    Args:
        base: the plain mean.
        strengths: of the shrinking, tried from the first to the last.
        inner_folds: of the cross-validation.
        most_products: see `MOST_PRODUCTS`.
    """

    base: MeanOfLogits | MeanOfProbabilities
    multi_label: bool = False
    strengths: Sequence[float] = STRENGTHS
    inner_folds: int = 6
    most_products: float = MOST_PRODUCTS
    strength: float | None = field(default=None, init=False)
    """The chosen one; None: the plain mean is used."""
    fallback: str = field(default="", init=False)
    """Why nothing was learned; empty where it was."""
    learned_from: str = field(default="", init=False)
    """How many clips the map was fitted on; empty if all."""
    temperatures: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) what the streams' logits are divided by."""
    weights: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) a."""
    borrowing: Floats = field(default_factory=lambda: np.zeros((1, 1, 1)), init=False)
    """(S, C, C) A: row i takes from column j."""
    bias: Floats = field(default_factory=lambda: np.zeros(1), init=False)
    """(C,) c."""

    def fit(self, table: Table) -> Self:
        check_targets(table, multi_label=self.multi_label)
        self.base.fit(table)
        self.strength, self.learned_from = None, ""
        rows, folds, self.fallback = self._affordable(table)
        self.fallback = self.fallback or too_few(table.targets[rows], table.groups[rows])
        if self.fallback:
            return self
        if len(rows) < len(table):
            self.learned_from = f"{len(rows):,} of {len(table):,} clips"
            table = table.part(rows)
        inputs = map_table(table, multi_label=self.multi_label)
        strength, loss = self._choose(table, inputs, group_folds(table.groups, folds))
        plain = log_loss_to_beat(self.base, table)
        if loss >= plain:
            self.fallback = (
                f"held-out log loss {loss:.3f}, that of the plain mean is {plain:.3f}: "
                "nothing was learned that generalizes"
            )
            return self
        self.strength = strength
        everyone = np.arange(len(table))
        self.temperatures = self._temperatures(table, everyone)
        strengths = self.strengths[: list(self.strengths).index(strength) + 1]
        *_, last = fit_maps(inputs, everyone, self.temperatures, strengths)
        self.weights, self.borrowing, self.bias = last.parts()
        return self

    def predict_scores(self, table: Table) -> Floats:
        if self.strength is None:
            return self.base.predict_scores(table)
        return to_probabilities(self.logits(table), multi_label=self.multi_label)

    def logits(self, table: Table) -> Floats:
        """(N, C) z; only where a map was learned."""
        inputs = map_table(table, multi_label=self.multi_label).features[INPUTS]
        blocks = self.borrowing + self.weights[:, None, None] * np.eye(len(self.bias))
        blocks = blocks / self.temperatures[:, None, None]
        return mapped(inputs, np.concatenate([block.T for block in blocks]), self.bias)

    def _affordable(self, table: Table) -> tuple[Rows, int, str]:
        """Rows to learn from, inner folds, and why not at all (or nothing)."""
        s, n, c = len(table.names), len(table), table.targets.n_classes
        if n * s * c**2 <= self.most_products:
            return np.arange(n), self.inner_folds, ""
        # Two folds of n / 2 clips and the fit of all cost 2 n, six folds and that 6 n.
        most = int(3 * self.most_products / (s * c**2))
        if most < min(n, FEWEST_PER_CLASS * c):
            reason = (
                f"{c:,} classes x {s} systems leave time to learn from {most:,} of {n:,} clips, "
                f"fewer than {FEWEST_PER_CLASS} for each class"
            )
            return np.arange(0), 2, reason
        return of_each_class(table.targets, most), 2, ""

    def _temperatures(self, table: Table, rows: Rows) -> Floats:
        """(S,) by some of the clips."""
        found = np.ones(len(table.names))
        for s, (name, there) in enumerate(table.present.items()):
            known = rows[there[rows]]
            if known.size:
                found[s] = find_temperature(
                    table.features[name][known],
                    table.targets[known].dense(bool),
                    multi_label=self.multi_label,
                )
        return found

    def _choose(self, table: Table, inputs: Table, pairs: Sequence[Fold]) -> tuple[float, float]:
        """The strength with the least held-out log loss, and that loss.

        All folds go through the strengths together, and stop when the loss rises: it has a single
        minimum over the strengths.
        """
        folds = [self._fold(table, inputs, *pair) for pair in pairs]
        losses: list[float] = []
        for results in zip(*folds, strict=True):
            losses.append(float(sum(results)) / len(table))
            if losses[-1] > min(losses):
                break
        best = int(np.argmin(losses))
        return self.strengths[best], losses[best]

    def _fold(self, table: Table, inputs: Table, rows: Rows, held: Rows) -> Iterator[float]:
        """Summed log loss of a fold's held-out clips, strength after strength."""
        temperatures = self._temperatures(table, rows)
        for fitted in fit_maps(inputs, rows, temperatures, self.strengths):
            yield fitted.loss(inputs, held, temperatures)


def of_each_class(targets: Targets, most: int) -> Rows:
    """Rows, in order, of at most so many clips, as many of each class as there can be.

    A clip with several labels counts under its rarest, one without any under the first class.
    A generator with a fixed seed draws the clips of each class.
    """
    order = np.random.default_rng(0).permutation(len(targets))
    kinds = np.maximum(targets.rarest(), 0)[order]
    sorted_by_kind = np.argsort(kinds, kind="stable")
    starts = np.searchsorted(kinds[sorted_by_kind], kinds[sorted_by_kind])
    rank = np.empty(len(order), int)
    rank[sorted_by_kind] = np.arange(len(order)) - starts
    return np.sort(order[np.argsort(rank, kind="stable")[:most]])


def too_few(targets: Targets, groups: NDArray) -> str:
    """Why nothing can be learned from these clips; empty if something may."""
    if len(np.unique(groups)) < 2:
        return "fewer than two groups of clips: nothing learned could be checked"
    spread = groups_per_class(targets, groups)
    if np.mean(spread < 2) >= 0.5:
        alone = int((spread < 2).sum())
        return (
            f"{alone} of {len(spread)} classes have clips in one group only: too few to learn from"
        )
    return ""


def groups_per_class(targets: Targets, groups: NDArray) -> NDArray[np.int64]:
    """Number of groups of each class that has a clip, in the order of the classes."""
    numbers = np.repeat(np.unique(groups, return_inverse=True)[1], targets.counts)
    pairs = np.unique(np.stack([targets.indices, numbers]), axis=1)
    return np.unique(pairs[0], return_counts=True)[1]


def log_loss_to_beat(base: MeanOfLogits | MeanOfProbabilities, table: Table) -> float:
    """Log loss of the plain mean with the temperature that is best on these same clips."""
    multi_label, targets = table.multi_label, table.targets.dense(bool)
    logits = np.log(np.maximum(base.predict_scores(table), 1e-12))
    if multi_label:
        logits = logits - np.log(np.maximum(1 - base.predict_scores(table), 1e-12))
    temperature = find_temperature(logits, targets, multi_label=multi_label)
    return log_loss(logits / temperature, targets, multi_label=multi_label)

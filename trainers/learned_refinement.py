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
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from trainers.folds import Rows, group_folds
from trainers.late_fusion import MeanOfLogits, MeanOfProbabilities
from trainers.score_streams import (
    Floats,
    Stack,
    Streams,
    as_stack,
    check_groups,
    check_truth,
    find_temperature,
    log_loss,
    to_probabilities,
)

Singles = NDArray[np.float32]

STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Tried in this order, each fit starting from the one before; left when it gets worse."""
MOST_CLASSES = 500
"""A_s has the square of it as weights: more are neither learnt nor fitted in reasonable time."""


@dataclass
class LearnedRefinement:
    """Fits a_s, A_s and c; the strength by inner cross-validation by group, for the log loss.

    Each stream's logits are centred by clip (single-label; the softmax does not see the mean) and
    divided by the stream's own temperature, so that one strength fits all. A stream that a clip
    lacks adds nothing, and the sum over the others is multiplied by the number of streams over
    that of those present.

    Where the clips are too few to learn from, the scores are the plain mean and ``fallback`` says
    why: fewer than two groups; most classes' clips all in one group, so that nothing learnt of a
    class can be checked on it; more than `MOST_CLASSES` classes; or a held-out log loss above that
    of the plain mean (with its temperature).

    Args:
        base: the plain mean.
        strengths: of the shrinking, tried from the first to the last.
        inner_folds: of the cross-validation.
    """

    base: MeanOfLogits | MeanOfProbabilities
    multi_label: bool = False
    strengths: Sequence[float] = STRENGTHS
    inner_folds: int = 6
    strength: float | None = field(default=None, init=False)
    """The chosen one; None: the plain mean is used."""
    fallback: str = field(default="", init=False)
    """Why nothing was learnt; empty where it was."""
    temperatures: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) what the streams' logits are divided by."""
    weights: Floats = field(default_factory=lambda: np.ones(1), init=False)
    """(S,) a."""
    borrowing: Floats = field(default_factory=lambda: np.zeros((1, 1, 1)), init=False)
    """(S, C, C) A: row i takes from column j."""
    bias: Floats = field(default_factory=lambda: np.zeros(1), init=False)
    """(C,) c."""

    def fit(self, streams: Streams, truth: ArrayLike, *, groups: ArrayLike | None = None) -> Self:
        stack = as_stack(streams)
        targets = check_truth(stack, truth, multi_label=self.multi_label)
        names = check_groups(groups, len(stack))
        self.base.fit(stack, truth)
        self.strength, self.fallback = None, too_few(targets, names)
        if self.fallback:
            return self
        strength, loss = self._choose(stack, targets, names)
        plain = to_beat(self.base, stack, targets, multi_label=self.multi_label)
        if loss >= plain:
            self.fallback = (
                f"held-out log loss {loss:.3f}, that of the plain mean is {plain:.3f}: "
                "nothing was learnt that carries over"
            )
            return self
        self.strength = strength
        self.temperatures = self._temperatures(stack, targets)
        inputs = self._inputs(stack, self.temperatures)
        *_, last = _path(inputs, targets, self._down_to(strength), multi_label=self.multi_label)
        self.weights, self.borrowing, self.bias = last.parts(len(stack.names))
        return self

    def predict_scores(self, streams: Streams) -> Floats:
        stack = as_stack(streams)
        if self.strength is None:
            return self.base.predict_scores(stack)
        return to_probabilities(self.logits(stack), multi_label=self.multi_label)

    def logits(self, streams: Streams) -> Floats:
        """(N, C) z; only of what has been learnt."""
        inputs = self._inputs(as_stack(streams), self.temperatures).astype(np.float64)
        blocks = self.borrowing + self.weights[:, None, None] * np.eye(len(self.bias))
        return inputs @ np.concatenate([block.T for block in blocks]) + self.bias

    def _temperatures(self, stack: Stack, targets: NDArray[np.bool_]) -> Floats:
        found = np.ones(len(stack.names))
        for s, there in enumerate(stack.present):
            if there.any():
                found[s] = find_temperature(
                    stack.logits[s, there], targets[there], multi_label=self.multi_label
                )
        return found

    def _inputs(self, stack: Stack, temperatures: Floats) -> Singles:
        """(N, S C) tempered logits, zero where absent, the others scaled up."""
        logits = stack.logits / temperatures[:, None, None]
        if not self.multi_label:
            logits = logits - logits.mean(2, keepdims=True)
        share = len(stack.names) / stack.present.sum(0)
        logits = logits * (stack.present * share)[..., None]
        return np.concatenate(list(logits), axis=1).astype(np.float32)

    def _choose(
        self, stack: Stack, targets: NDArray[np.bool_], groups: NDArray
    ) -> tuple[float, float]:
        """The strength with the least held-out log loss, and that loss.

        All folds go down the strengths side by side, and stop when the loss rises: it falls and
        rises once over the strengths.
        """
        folds = [
            self._fold(stack, targets, *pair) for pair in group_folds(groups, self.inner_folds)
        ]
        losses: list[float] = []
        for results in zip(*folds, strict=True):
            losses.append(float(sum(results)) / len(stack))
            if losses[-1] > min(losses):
                break
        best = int(np.argmin(losses))
        return self.strengths[best], losses[best]

    def _fold(
        self, stack: Stack, targets: NDArray[np.bool_], rows: Rows, held: Rows
    ) -> Iterator[float]:
        """Summed log loss of a fold's held-out clips, strength after strength."""
        part = stack.rows(rows)
        temperatures = self._temperatures(part, targets[rows])
        inputs = self._inputs(part, temperatures)
        outside = self._inputs(stack.rows(held), temperatures)
        for fitted in _path(inputs, targets[rows], self.strengths, multi_label=self.multi_label):
            loss = log_loss(
                fitted.logits(outside).astype(np.float64),
                targets[held],
                multi_label=self.multi_label,
            )
            yield loss * len(held)

    def _down_to(self, strength: float) -> Sequence[float]:
        return self.strengths[: list(self.strengths).index(strength) + 1]


def too_few(targets: NDArray[np.bool_], groups: NDArray) -> str:
    """Why these clips can't teach anything; empty if they may."""
    if len(np.unique(groups)) < 2:
        return "fewer than two groups of clips: nothing learnt could be checked"
    if targets.shape[1] > MOST_CLASSES:
        return f"{targets.shape[1]} classes, more than the {MOST_CLASSES} that can be learnt"
    seen = targets.any(0)
    spread = [len(np.unique(groups[column])) for column in targets[:, seen].T]
    if np.mean(np.array(spread) < 2) >= 0.5:
        alone = sum(count < 2 for count in spread)
        return (
            f"{alone} of {len(spread)} classes have clips in one group only: too few to learn from"
        )
    return ""


def to_beat(
    base: MeanOfLogits | MeanOfProbabilities,
    stack: Stack,
    targets: NDArray[np.bool_],
    *,
    multi_label: bool,
) -> float:
    """Log loss of the plain mean with the temperature that suits these very clips best."""
    logits = np.log(np.maximum(base.predict_scores(stack), 1e-12))
    if multi_label:
        logits = logits - np.log(np.maximum(1 - base.predict_scores(stack), 1e-12))
    temperature = find_temperature(logits, targets, multi_label=multi_label)
    return log_loss(logits / temperature, targets, multi_label=multi_label)


@dataclass
class _Fitted:
    """Parameters as the optimiser has them: a (S,), then (S C + 1, C), transposed A and c."""

    vector: Floats
    n_streams: int
    n_classes: int

    def matrix(self) -> Singles:
        """(S C + 1, C): what inputs and a column of ones are multiplied by."""
        c = self.n_classes
        whole = self.vector[self.n_streams :].reshape(-1, c).astype(np.float32)
        for s in range(self.n_streams):
            whole[s * c + np.arange(c), np.arange(c)] += np.float32(self.vector[s])
        return whole

    def logits(self, inputs: Singles) -> Singles:
        whole = self.matrix()
        return inputs @ whole[:-1] + whole[-1]

    def parts(self, n_streams: int) -> tuple[Floats, Floats, Floats]:
        """a (S,), A (S, C, C) and c (C,)."""
        c = self.n_classes
        whole = self.vector[n_streams:].reshape(-1, c)
        blocks = whole[:-1].reshape(n_streams, c, c).transpose(0, 2, 1)
        return self.vector[:n_streams].copy(), blocks.copy(), whole[-1].copy()


def _path(
    inputs: Singles, targets: NDArray[np.bool_], strengths: Sequence[float], *, multi_label: bool
) -> Iterator[_Fitted]:
    """The fit for each strength, started from the one before."""
    c = targets.shape[1]
    s = inputs.shape[1] // c
    vector = np.concatenate([np.full(s, 1 / s), np.zeros((s * c + 1) * c)])
    wanted = targets.astype(np.float32)
    for strength in strengths:
        found = minimize(
            _objective,
            vector,
            args=(inputs, wanted, strength, multi_label),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 60, "ftol": 1e-6, "gtol": 1e-6},
        )
        vector = found.x
        yield _Fitted(vector.copy(), s, c)


def _objective(
    vector: Floats, inputs: Singles, targets: Singles, strength: float, multi_label: bool
) -> tuple[float, Floats]:
    """Log loss plus the penalty, and the gradient.

    The products are in single precision, which halves the time; sums are in double.
    """
    n, c = targets.shape
    s = inputs.shape[1] // c
    shape = _Fitted(vector, s, c)
    z = shape.logits(inputs)
    if multi_label:
        loss = log_loss(z.astype(np.float64), targets > 0, multi_label=True)
        slope = to_probabilities(z, multi_label=True).astype(np.float32) - targets
    else:
        top = z.max(1, keepdims=True)
        chosen = np.einsum("nc,nc->n", z, targets) - top[:, 0]
        np.exp(z - top, out=z)
        sums = z.sum(1, keepdims=True)
        loss = float(np.mean(np.log(sums[:, 0]) - chosen, dtype=np.float64))
        z /= sums
        slope = z
        slope -= targets
    slope /= n
    gradient = np.empty_like(vector)
    below = gradient[s:].reshape(-1, c)
    below[:-1] = inputs.T @ slope
    below[-1] = slope.sum(0, dtype=np.float64)
    for one in range(s):
        gradient[one] = np.trace(below[one * c : (one + 1) * c])
    free = vector[s:]
    gradient[s:] += strength * free
    return loss + strength / 2 * float(free @ free), gradient

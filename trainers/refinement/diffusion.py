"""Domain adaptive semantic diffusion: related classes' scores drawn together on the class graph.

Jiang, Wang, Chang and Ngo, *Domain adaptive semantic diffusion for large scale context-based video
annotation* (ICCV 2009), which the Hybrid paper compares with. The energy of scores G (N, C) on a
graph W is

    E = 1/2 sum_ij W_ij |g_i / sqrt(d_i) - g_j / sqrt(d_j)|^2,    d_i = sum_j W_ij,

g_i being the scores of class i, divided by N here. Diffusion goes down its gradient in G,
adaptation down its gradient in W (with fixed degrees), in alternation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from trainers.fit.folds import group_folds
from trainers.refinement.late_fusion import MeanOfLogits, MeanOfProbabilities
from trainers.refinement.score_streams import (
    Floats,
    check_targets,
    main_measure,
)
from trainers.table import Table

MOST_CLASSES = 500
"""The cost of a step grows with the cube of the classes; with more the scores stay as they are."""
STEPS = (0, 1, 2, 4, 8, 16, 32)
"""Numbers of steps that are tried."""


def class_graph(
    scores: Floats, targets: NDArray[np.bool_], *, multi_label: bool, neighbors: int = 10
) -> Floats:
    """(C, C) symmetric weights, at least 0, with zeros on the diagonal.

    Multi-label: the positive Pearson correlations of the labels, as published. Labels that exclude
    one another have none, so for single-label clips those of the scores are taken: classes that
    the systems score alike.

    Args:
        scores: (N, C).
        targets: (N, C).
        neighbors: edges kept per class, the strongest; one is kept if either end keeps it.
    """
    columns = targets.astype(np.float64) if multi_label else scores
    centered = columns - columns.mean(0)
    lengths = np.sqrt((centered**2).sum(0))
    centered = np.divide(centered, lengths, out=np.zeros_like(centered), where=lengths > 1e-12)
    graph = np.maximum(centered.T @ centered, 0.0)
    np.fill_diagonal(graph, 0.0)
    if len(graph) > neighbors:
        least = np.sort(graph, axis=1)[:, -neighbors, None]
        graph = np.where((graph >= least) | (graph >= least).T, graph, 0.0)
    return (graph + graph.T) / 2


def normalized_laplacian(graph: Floats) -> Floats:
    """I - D^-1/2 W D^-1/2; the row and column of a class without edges are zero."""
    degrees = graph.sum(1)
    inverse = np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    return np.diag((degrees > 0).astype(float)) - inverse[:, None] * graph * inverse


def energy(scores: Floats, graph: Floats) -> float:
    """E of the scores on the graph; at least 0."""
    return float((scores * (scores @ normalized_laplacian(graph))).sum() / len(scores))


def diffusion(scores: Floats, graph: Floats, *, alpha: float, beta: float) -> Iterator[Floats]:
    """(C, C) M after 0, 1, 2, ... steps; scores @ M are the diffused scores.

    Without edges M stays the identity.

    Args:
        scores: (N, C) unlabeled scores of the domain that the graph adapts to.
        graph: (C, C), see `class_graph`.
        alpha: step of the scores, in (0, 1].
        beta: step of the graph; 0: it is left as it is.
    """
    whole, graph = np.eye(len(graph)), graph.copy()
    # The graph's gradient needs only the products of the clips' scores.
    products = scores.T @ scores / len(scores)
    while True:
        yield whole
        degrees = graph.sum(1)
        whole = whole - alpha * whole @ normalized_laplacian(graph)
        scaled = whole / np.sqrt(np.where(degrees > 0, degrees, 1.0))
        inner = scaled.T @ products @ scaled
        apart = np.diag(inner)[:, None] + np.diag(inner) - 2 * inner
        graph = np.where(graph > 0, np.maximum(graph - beta / 2 * apart, 0.0), 0.0)


@dataclass
class SemanticDiffusion:
    """DASD on the mean of the systems' scores; the number of steps by inner cross-validation.

    The graph adapts to the clips of `fit`, so that the scores of one clip do not depend on which
    others are scored with it. Where no number of steps does better than none, or there are more
    than `MOST_CLASSES` classes, the scores stay as they are.

    Args:
        base: what the diffused scores are the mean of.
        alpha, beta: see `diffusion`.
        neighbors: see `class_graph`.
    """

    base: MeanOfLogits | MeanOfProbabilities
    multi_label: bool = False
    alpha: float = 0.1
    beta: float = 0.1
    neighbors: int = 10
    inner_folds: int = 5
    steps: int = field(default=0, init=False)
    operator: Floats = field(default_factory=lambda: np.eye(1), init=False)
    """(C, C) M."""

    def fit(self, table: Table) -> Self:
        targets = check_targets(table, multi_label=self.multi_label)
        scores = self.base.fit(table).predict_scores(table)
        self.steps = self._choose(scores, targets, table.groups)
        many = scores.shape[1] > MOST_CLASSES
        self.operator = (
            np.eye(scores.shape[1]) if many else self._operators(scores, targets)[self.steps]
        )
        return self

    def predict_scores(self, table: Table) -> Floats:
        return self._diffused(self.base.predict_scores(table), self.operator)

    def _diffused(self, scores: Floats, operator: Floats) -> Floats:
        diffused = np.maximum(scores @ operator, 0.0)
        if self.multi_label:
            return np.minimum(diffused, 1.0)
        return diffused / diffused.sum(1, keepdims=True)

    def _operators(self, scores: Floats, targets: NDArray[np.bool_]) -> dict[int, Floats]:
        """Number of steps -> M."""
        graph = class_graph(scores, targets, multi_label=self.multi_label, neighbors=self.neighbors)
        path = diffusion(scores, graph, alpha=self.alpha, beta=self.beta)
        return {n: one for n, one in zip(range(STEPS[-1] + 1), path, strict=False) if n in STEPS}

    def _choose(self, scores: Floats, targets: NDArray[np.bool_], groups: NDArray) -> int:
        if len(np.unique(groups)) < 2 or scores.shape[1] > MOST_CLASSES:
            return 0
        held_out = {n: np.empty_like(scores) for n in STEPS}
        for rows, held in group_folds(groups, self.inner_folds):
            for n, one in self._operators(scores[rows], targets[rows]).items():
                held_out[n][held] = self._diffused(scores[held], one)
        found = [main_measure(held_out[n], targets, multi_label=self.multi_label) for n in STEPS]
        # Rounded, so that of equally good ones the fewest steps are taken.
        return STEPS[int(np.argmax(np.round(found, 9)))]

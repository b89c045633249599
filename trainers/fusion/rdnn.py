"""RDNN: a fusion network with trace-norm regularizers over features and over classes.

Wu, Jiang, Wang, Pu and Xue, *Exploring inter-feature and inter-class relationships with deep neural
networks for video classification* (ACM Multimedia 2014). Minimized, over weights and relations::

    mean over clips of ‖g(x) - y‖² + λ1/2 Σ‖W‖²
        + λ2/2 (tr(A Ψ⁻¹ Aᵀ) + ε tr Ψ⁻¹) + λ3/2 (tr(Vᵀ Ω⁻¹ V) + ε tr Ω⁻¹)

with Ψ and Ω positive definite of trace 1. A's columns are the fusion layer's weights for each
feature, V's rows the classes' weights. For given weights Ψ = (AᵀA + εI)^½ / tr(AᵀA + εI)^½, and Ω
likewise of VVᵀ: with them the terms are the squared trace norms. ε keeps the relations invertible;
as it is part of the objective, the closed forms are its exact minimizers. Weights and relations
take turns; the weights go by L-BFGS on all clips, so that the objective falls at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from trainers.fit.folds import Fold
from trainers.fusion.method import Floats, Method, Standardizer
from trainers.table import Table

EPSILON = 1e-4


@dataclass(frozen=True)
class RDNNSettings:
    """The network and its regularizers."""

    hidden: int = 200
    """Units of each feature's layer, and of the fusion layer."""
    lambda1: float = 1e-4
    """Of all weights' squares."""
    lambda2: float = 1e-4
    """Of the relations between features."""
    lambda3: float = 1e-4
    """Of the relations between classes."""
    rounds: int = 12
    """Turns of weights and relations."""
    steps: int = 10
    """L-BFGS steps per turn."""


GRID = tuple(
    RDNNSettings(lambda1=weights, lambda2=relations, lambda3=relations)
    for weights in (1e-3, 1e-4)
    for relations in (1e-1, 1e-2, 1e-3)
)


@dataclass(frozen=True, eq=False)
class Relation:
    """A relation matrix and its inverse, both from one decomposition."""

    matrix: Floats
    """(n, n) symmetric, positive definite, of trace 1."""
    inverse: Floats
    """(n, n) symmetric."""


def relation(gram: Floats) -> Relation:
    """(gram + εI)^½ over its trace, for a positive semi-definite (n, n) matrix of products."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    roots = np.sqrt(np.maximum(values, 0.0) + EPSILON)
    shares = roots / roots.sum()
    return Relation(
        _symmetric((vectors * shares) @ vectors.T), _symmetric((vectors / shares) @ vectors.T)
    )


def _symmetric(matrix: Floats) -> Floats:
    return np.asarray((matrix + matrix.T) / 2)


class RDNN(Method):
    """The network and its relation matrices.

    Args:
        grid: settings to choose from by cross-validation.
    """

    absence = "its features are at their training mean"

    def __init__(self, grid: Sequence[RDNNSettings] = GRID, **options: Any) -> None:
        super().__init__(**options)
        self.grid = tuple(grid)

    def _fit(self, clips: Table) -> None:
        def held_out(settings: RDNNSettings, parts: list[Fold]) -> Floats:
            scores = np.zeros((len(clips), clips.targets.n_classes))
            for train, held in parts:
                network = _Network.fit(clips.part(train), settings, self.multi_label, self.seed)
                scores[held] = network.scores(clips.part(held))
            return scores

        settings, _ = self._choose(clips, self.grid, held_out)
        self.network = _Network.fit(clips, settings, self.multi_label, self.seed)
        self.chosen |= {name: getattr(settings, name) for name in ("lambda1", "lambda2", "lambda3")}

    def _scores(self, clips: Table) -> Floats:
        return self.network.scores(clips)

    @property
    def history(self) -> tuple[float, ...]:
        """The objective at the start and after every step of weights or relations."""
        return tuple(self.network.history)

    @property
    def features_relation(self) -> Floats:
        """(S, S) Ψ."""
        return self.network.psi.matrix

    @property
    def classes_relation(self) -> Floats:
        """(C, C) Ω."""
        return self.network.omega.matrix


class _Network:
    """Parameters as one vector, because L-BFGS wants one; `_parts` names its pieces."""

    def __init__(self, clips: Table, settings: RDNNSettings, multi_label: bool, seed: int) -> None:
        self.settings, self.multi_label = settings, multi_label
        self.standardize = Standardizer(clips)
        widths = [values.shape[1] for values in clips.features.values()]
        hidden, classes = settings.hidden, clips.targets.n_classes
        self.shapes = [(hidden, width) for width in widths]
        self.shapes += [(hidden, hidden * len(widths)), (classes, hidden)]
        random = np.random.default_rng(seed)
        pieces = []
        for number, (rows, columns) in enumerate(self.shapes):
            bound = (6 / (rows + columns)) ** 0.5
            # Inputs have a norm of about 1 whatever their width, as in the fusion network.
            bound *= columns**0.5 if number < len(widths) else 1.0
            pieces += [random.uniform(-bound, bound, rows * columns), np.zeros(rows)]
        self.vector = np.concatenate(pieces)
        self.cuts = [0, *np.cumsum([len(piece) for piece in pieces])]
        self._relate()
        self.history: list[float] = []

    @classmethod
    def fit(cls, clips: Table, settings: RDNNSettings, multi_label: bool, seed: int) -> _Network:
        network = cls(clips, settings, multi_label, seed)
        inputs, targets = network._inputs(clips), torch.from_numpy(clips.targets.dense(np.float64))
        network.history.append(network._objective(network.vector, inputs, targets)[0])
        for _ in range(settings.rounds):
            network.vector = minimize(
                network._objective,
                network.vector,
                args=(inputs, targets),
                jac=True,
                method="L-BFGS-B",
                callback=network._note,
                options={"maxiter": settings.steps},
            ).x
            network._relate()
            network.history.append(network._objective(network.vector, inputs, targets)[0])
        return network

    def scores(self, clips: Table) -> Floats:
        """(N, C) probabilities."""
        with torch.no_grad():
            pieces = self._parts(torch.from_numpy(self.vector))
            return self._forward(self._inputs(clips), pieces).numpy()

    def _note(self, intermediate_result: Any) -> None:
        self.history.append(float(intermediate_result.fun))

    def _inputs(self, clips: Table) -> list[Tensor]:
        return [
            torch.from_numpy(values / values.shape[1] ** 0.5)
            for values in self.standardize(clips).values()
        ]

    def _parts(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of every layer: one per feature, the fusion layer, the classes."""
        pieces = [vector[start:stop] for start, stop in pairwise(self.cuts)]
        return [
            (weight.view(shape), bias)
            for shape, weight, bias in zip(self.shapes, pieces[::2], pieces[1::2], strict=True)
        ]

    def _forward(self, inputs: list[Tensor], parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        *single, (fusion, fusion_bias), (classes, bias) = parts
        hidden = [torch.tanh(x @ w.T + b) for x, (w, b) in zip(inputs, single, strict=True)]
        joined = torch.tanh(torch.cat(hidden, 1) @ fusion.T + fusion_bias)
        logits = joined @ classes.T + bias
        return torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, 1)

    def _columns(self, fusion: Tensor) -> Tensor:
        """A (P·H, S) of W^E (P, S·H)."""
        rows, hidden = fusion.shape[0], self.settings.hidden
        return fusion.view(rows, -1, hidden).permute(0, 2, 1).reshape(rows * hidden, -1)

    def _relate(self) -> None:
        """The best relations for the present weights."""
        parts = self._parts(torch.from_numpy(self.vector))
        columns, classes = self._columns(parts[-2][0]).numpy(), parts[-1][0].numpy()
        self.psi, self.omega = relation(columns.T @ columns), relation(classes @ classes.T)

    def _objective(
        self, vector: Floats, inputs: list[Tensor], targets: Tensor
    ) -> tuple[float, Floats]:
        """The objective and its gradient by the weights."""
        chosen = self.settings
        variable = torch.from_numpy(np.asarray(vector)).requires_grad_()
        parts = self._parts(variable)
        errors = ((self._forward(inputs, parts) - targets) ** 2).sum(1).mean()
        psi, omega = torch.from_numpy(self.psi.inverse), torch.from_numpy(self.omega.inverse)
        columns, classes = self._columns(parts[-2][0]), parts[-1][0]
        between_features = ((columns @ psi) * columns).sum() + EPSILON * psi.trace()
        between_classes = ((omega @ classes) * classes).sum() + EPSILON * omega.trace()
        squares = sum((weight**2).sum() for weight, _ in parts)
        value = (
            errors
            + chosen.lambda1 / 2 * squares
            + chosen.lambda2 / 2 * between_features
            + chosen.lambda3 / 2 * between_classes
        )
        (gradient,) = torch.autograd.grad(value, variable)
        return float(value.detach()), gradient.numpy()

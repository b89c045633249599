"""Support vector machines on χ² kernels: per feature, early fusion, multiple kernel learning.

Classes are scored one against the rest. SVM-EF takes the mean of the features' kernels, SVM-MKL
learns their weights (`mkl`), SVM-LF is the mean of the features' own machines' scores
(`method.LateFusion`). Decision values become probabilities by a calibration fitted on held-out
ones, which changes no machine's order of clips (multi-label) or of classes (single-label).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning

from trainers.fit.folds import Fold
from trainers.fusion.kernels import ClipKernels
from trainers.fusion.machine import MOST_ITERATIONS, solve
from trainers.fusion.method import Floats, Method
from trainers.fusion.mkl import fit_mkl
from trainers.refinement.score_streams import log_loss
from trainers.table import Table

COSTS = (0.1, 1.0, 10.0, 100.0)
"""Grid of C, the strongest regularization first."""
Kernels = NDArray[np.float32]


@dataclass(frozen=True)
class VectorMachine:
    """C machines, one per class."""

    coefficients: Floats
    """(C, n) y_i α_i."""
    weights: Floats
    """(C, S) of the kernels."""
    bias: Floats
    """(C,)."""
    gap: float = 0.0
    """Largest relative duality gap of the weights; 0 where they are given."""
    unsettled: int = 0
    """Machines that stopped at a limit, short of their tolerance or gap."""

    def decide(self, kernels: Kernels) -> Floats:
        """(N, C) decision values from (S, N, n) kernels."""
        total = np.repeat(self.bias[None], kernels.shape[1], 0)
        for s, kernel in enumerate(kernels):
            total += kernel @ (self.coefficients * self.weights[:, s : s + 1]).T
        return total


class KernelSVM(Method):
    """An SVM over the χ² kernels of one or several streams.

    With one stream this is that feature's SVM; with several and ``combine="mean"`` SVM-EF, with
    ``combine="mkl"`` SVM-MKL. Of a clip that lacks a stream, see `ClipKernels`.

    Args:
        combine: the kernels' plain mean, or weights learned for each class under ‖d‖_p ≤ 1.
        costs: grid of C.
        norm: p, above 1.
        gap: relative duality gap at which the weights are good enough.
        most: iterations of one SVM. Where machines stop at it, ``chosen`` and a warning say how
            many; the others are optimal to `machine.TOLERANCE`, MKL's to the gap.
        threads: that share the kernels' distances.
    """

    absence = "two clips are compared by the streams that both have"

    def __init__(
        self,
        combine: Literal["mean", "mkl"] = "mean",
        *,
        costs: Sequence[float] = COSTS,
        norm: float = 2.0,
        gap: float = 1e-3,
        most: int = MOST_ITERATIONS,
        threads: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.combine, self.costs, self.norm, self.gap = combine, tuple(costs), norm, gap
        self.most, self.threads = most, threads

    def _fit(self, clips: Table) -> None:
        self.kernels = ClipKernels(clips, threads=self.threads)
        grams = self._combined(self.kernels.training())
        targets = clips.targets.dense(np.float64)

        def held_out(cost: float, parts: list[Fold]) -> Floats:
            found = np.zeros(targets.shape)
            for train, held in parts:
                machine = self._machine(grams[:, train][:, :, train], targets[train], cost)
                found[held] = machine.decide(grams[:, held][:, :, train])
            return found

        def calibration(decisions: Floats | None) -> Calibration:
            return Calibration.fit(decisions, targets, multi_label=self.multi_label)

        cost, decisions = self._choose(
            clips, self.costs, held_out, calibrate=lambda found: calibration(found)(found)
        )
        self.machine = self._machine(grams, targets, cost)
        self.calibration = calibration(decisions)
        self.chosen["C"] = cost
        if self.machine.unsettled:
            self._warn_unsettled(self.machine.unsettled)
        if self.combine == "mkl":
            self.chosen["gap"] = self.machine.gap
            weights = self.machine.weights.mean(0)
            self.chosen |= {f"weight.{n}": w for n, w in zip(clips.names, weights, strict=True)}

    def _warn_unsettled(self, count: int) -> None:
        kind = "gap" if self.combine == "mkl" else "tolerance"
        classes = len(self.machine.bias)
        self.chosen["note"] = f"{count} of {classes} classes' machines stopped short of the {kind}"
        about = f"C {self.chosen['C']:g}, streams {', '.join(self.kernels.kernels)}"
        warnings.warn(
            f"{self.chosen['note']} after at most {self.most:,} iterations ({about}): their scores "
            "are not the best that this method can give; a smaller C or a larger limit (most) "
            "would settle them",
            ConvergenceWarning,
            stacklevel=4,
        )

    def _combined(self, kernels: Kernels) -> Kernels:
        """The mean as one kernel, or all of them where their weights are to be learned."""
        return kernels.mean(0, keepdims=True) if self.combine == "mean" else kernels

    def _machine(self, kernels: Kernels, targets: Floats, cost: float) -> VectorMachine:
        if self.combine == "mean":
            return fit_one_against_rest(kernels[0], targets, cost, most=self.most)
        return fit_mkl_machine(kernels, targets, cost, norm=self.norm, gap=self.gap, most=self.most)

    def decision_values(self, clips: Table) -> Floats:
        """(N, C) distances from the separating planes; 0 is the border."""
        return self.machine.decide(self._combined(self.kernels.between(clips)))

    def _scores(self, clips: Table) -> Floats:
        return self.calibration(self.decision_values(clips))


def fit_one_against_rest(
    kernel: NDArray[Any], targets: Floats, cost: float, *, most: int = MOST_ITERATIONS
) -> VectorMachine:
    """C machines on one (n, n) kernel; of a class that all or no clips have, a constant ±1."""
    n, classes = targets.shape
    coefficients, bias, unsettled = np.zeros((classes, n)), np.zeros(classes), 0
    for c in range(classes):
        signs = np.where(targets[:, c] > 0, 1, -1)
        if abs(signs.sum()) == n:
            bias[c] = signs[0]
            continue
        alpha, bias[c], settled = solve(kernel, signs, balanced(signs, cost), most=most)
        coefficients[c] = alpha * signs
        unsettled += not settled
    return VectorMachine(coefficients, np.ones((classes, 1)), bias, unsettled=unsettled)


def fit_mkl_machine(
    kernels: NDArray[Any],
    targets: Floats,
    cost: float,
    *,
    norm: float,
    gap: float,
    most: int = MOST_ITERATIONS,
) -> VectorMachine:
    """As `fit_one_against_rest` on (S, n, n) kernels, each class with weights of its own."""
    n, classes = targets.shape
    coefficients, bias = np.zeros((classes, n)), np.zeros(classes)
    weights, largest, unsettled = np.zeros((classes, len(kernels))), 0.0, 0
    for c in range(classes):
        signs = np.where(targets[:, c] > 0, 1.0, -1.0)
        if abs(signs.sum()) == n:
            bias[c] = signs[0]
            continue
        found = fit_mkl(kernels, signs, balanced(signs, cost), norm=norm, gap=gap, most=most)
        coefficients[c], weights[c], bias[c] = found.alpha * signs, found.weights, found.bias
        largest, unsettled = max(largest, found.gap), unsettled + (not found.settled)
    return VectorMachine(coefficients, weights, bias, largest, unsettled)


def balanced(signs: NDArray[Any], cost: float) -> Floats:
    """(n,) C_i, so that the positives and the negatives weigh the same, C n / 2 each.

    One class among many has few positives: where its chance is below a half everywhere (a stream
    that shows only part of a class), the plain hinge loss is least for a machine that rejects
    every clip.
    """
    shares = np.where(signs > 0, (signs > 0).mean(), (signs < 0).mean())
    return np.asarray(cost / (2 * shares))


@dataclass(frozen=True)
class Calibration:
    """Decision values -> probabilities: softmax(a z), or multi-label σ(a z_c + b_c), a > 0."""

    slope: float
    offsets: Floats
    multi_label: bool

    def __call__(self, decisions: Floats) -> Floats:
        logits = self.slope * decisions + self.offsets
        return expit(logits) if self.multi_label else softmax(logits, axis=1)

    @classmethod
    def fit(cls, held_out: Floats | None, targets: Floats, *, multi_label: bool) -> Calibration:
        """Least log loss on (N, C) held-out decision values; None: a = 1, b = 0."""
        classes = targets.shape[1]
        if held_out is None:
            return cls(1.0, np.zeros(classes), multi_label)
        values, truth = held_out, targets.astype(bool)

        def loss(parameters: Floats) -> float:
            offsets = parameters[1:] if multi_label else 0.0
            found = log_loss(
                np.exp(parameters[0]) * values + offsets, truth, multi_label=multi_label
            )
            # A faint pull toward 0 keeps the offset of a class without any positive finite.
            return found + 1e-4 * float((parameters[1:] ** 2).sum())

        start = np.zeros(1 + (classes if multi_label else 0))
        # exp(±7): held-out scores that are all right, or worth nothing, have no finite optimum.
        bounds = [(-7.0, 7.0), *[(-30.0, 30.0)] * (len(start) - 1)]
        found = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
        offsets = found[1:] if multi_label else np.zeros(classes)
        return cls(float(np.exp(found[0])), offsets, multi_label)

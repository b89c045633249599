"""ℓp-norm multiple kernel learning for one class against the rest (Kloft et al., JMLR 2011).

    min over d ≥ 0, ‖d‖_p ≤ 1, and w, b of   ½ Σ_s ‖w_s‖² / d_s + Σ_i C_i max(0, 1 - y_i f(x_i))

Weights and SVM are found alternately. For given weights the SVM on K = Σ_s d_s K_s gives α and
‖w_s‖² = d_s² q_s with q_s = (α∘y)ᵀ K_s (α∘y); for a given SVM the best weights are
d_s = ‖w_s‖^(2/(p+1)) / (Σ_t ‖w_t‖^(2p/(p+1)))^(1/p) (their Eq. 22). The dual of the whole is
Σα - ½ ‖q‖_{p*}, p* = p / (p - 1): the difference of both is the duality gap, and bounds the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.fusion.machine import MOST_ITERATIONS, solve
from trainers.fusion.method import Floats

MOST_STEPS = 100
"""Turns of weights and SVM."""
LEAST_TOLERANCE = 1e-10
"""Of the SVM: below it rounding decides."""


@dataclass(frozen=True)
class MKLFit:
    """What the alternation gives."""

    alpha: Floats
    """(n,) in 0..C_i."""
    weights: Floats
    """(S,) d, of norm ‖d‖_p = 1."""
    bias: float
    objective: float
    """The primal objective."""
    gap: float
    """(primal - dual) / primal of these very α, d and b: it bounds their relative error."""
    settled: bool
    """Whether the gap is at most the wanted one; not so if the steps ran out."""
    steps: int
    history: tuple[float, ...]
    """The primal objective after each SVM."""


def fit_mkl(
    kernels: NDArray[Any],
    signs: Floats,
    cost: float | Floats,
    *,
    norm: float = 2.0,
    gap: float = 1e-3,
    tolerance: float = 1e-4,
    most: int = MOST_ITERATIONS,
) -> MKLFit:
    """Fits weights and SVM alternately until the relative duality gap is small enough.

    It ends without it after `MOST_STEPS` turns, or once an SVM at the least tolerance, or at the
    limit of its iterations, no longer narrows it; see ``settled``.

    Args:
        kernels: (S, n, n), each positive semi-definite.
        signs: (n,) of -1 and 1, both present.
        cost: C, or (n,) one for each clip.
        norm: p, above 1.
        gap: wanted relative duality gap.
        tolerance: of the SVM's own optimality; it is tightened where it keeps the gap open.
        most: iterations of each SVM.

    Raises:
        ValueError: a norm of 1 or less, signs of one kind, shapes that don't fit.
    """
    if not norm > 1:
        raise ValueError(f"the norm must be above 1, not {norm!r}")
    if kernels.ndim != 3 or kernels.shape[1:] != (len(signs), len(signs)):
        raise ValueError(f"kernels {kernels.shape} do not fit {len(signs)} signs")
    if set(np.unique(signs)) != {-1.0, 1.0}:
        raise ValueError("signs must be -1 and 1, both present")
    costs = np.array(np.broadcast_to(cost, signs.shape), np.float64)
    weights = np.full(len(kernels), len(kernels) ** (-1 / norm))
    history: list[float] = []
    gaps: list[float] = []
    step = 0
    while True:
        step += 1
        joined = np.tensordot(weights, kernels, 1)
        alpha, bias, exact = solve(joined, signs, costs, tolerance=tolerance, most=most)
        signed = alpha * signs
        outputs = kernels @ signed
        parts = np.maximum(outputs @ signed, 0.0)
        primal = _primal(weights, outputs, parts, signs, bias, costs)
        dual = alpha.sum() - 0.5 * np.linalg.norm(parts, norm / (norm - 1))
        history.append(primal)
        reached = float((primal - dual) / max(primal, 1e-12))
        # With one kernel there are no weights to wait for: all of the gap is the SVM's.
        stalled = len(kernels) == 1 or (len(gaps) > 0 and reached > 0.7 * gaps[-1])
        given_up = stalled and (not exact or tolerance <= LEAST_TOLERANCE)
        if reached <= gap or step == MOST_STEPS or given_up:
            settled = reached <= gap
            return MKLFit(alpha, weights, bias, primal, reached, settled, step, tuple(history))
        if stalled:
            tolerance = max(tolerance / 10, LEAST_TOLERANCE)
        gaps.append(reached)
        weights = best_weights(weights**2 * parts, norm)


def best_weights(squares: Floats, norm: float) -> Floats:
    """(S,) weights of ‖d‖_p = 1 that make Σ_s ‖w_s‖² / d_s least, from (S,) ‖w_s‖²."""
    powers = squares ** (1 / (norm + 1))
    total = (powers**norm).sum() ** (1 / norm)
    if not total > 0:
        return np.full(len(squares), len(squares) ** (-1 / norm))
    return powers / total


def _primal(
    weights: Floats, outputs: Floats, parts: Floats, signs: Floats, bias: float, costs: Floats
) -> float:
    decisions = weights @ outputs + bias
    hinge = np.maximum(0.0, 1 - signs * decisions)
    return float(0.5 * weights @ parts + costs @ hinge)

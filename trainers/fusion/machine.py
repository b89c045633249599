"""One support vector machine on a given kernel: its tolerance, and the limit of its iterations.

The solver (libsvm's SMO) stops when no pair of clips violates the optimality conditions by more
than the tolerance, or at the limit. A machine that stops at the limit is still a feasible one (its
dual coefficients keep their bounds and their sum), but not the best.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC

from trainers.fusion.method import Floats

TOLERANCE = 1e-3
"""Largest violation of the optimality conditions, in units of the decision values' margin of 1."""
MOST_ITERATIONS = 1_000_000
"""Of one machine; each costs one row of the kernel, so that 10,000 clips take seconds, not days."""


class Solution(NamedTuple):
    """What the solver gives."""

    alpha: Floats
    """(n,) in 0..C_i."""
    bias: float
    settled: bool
    """Whether the tolerance was reached."""


def solve(
    kernel: NDArray[Any],
    signs: NDArray[Any],
    costs: Floats,
    *,
    tolerance: float = TOLERANCE,
    most: int = MOST_ITERATIONS,
) -> Solution:
    """min over α of ½ (α∘y)ᵀ K (α∘y) - Σα, with 0 ≤ α_i ≤ C_i and Σ α_i y_i = 0.

    Args:
        kernel: (n, n), positive semi-definite.
        signs: (n,) y of -1 and 1, both present.
        costs: (n,) C_i.
        tolerance: see `TOLERANCE`.
        most: iterations.
    """
    machine = SVC(kernel="precomputed", tol=tolerance, max_iter=most)
    with warnings.catch_warnings():
        # Said by the caller, once for all its machines.
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(kernel, signs, sample_weight=costs)
    alpha = np.zeros(len(signs))
    alpha[machine.support_] = np.abs(machine.dual_coef_[0])
    return Solution(alpha, float(machine.intercept_[0]), machine.fit_status_ == 0)

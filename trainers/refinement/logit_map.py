"""The learned refinement's sums: a linear map of logits fitted by cross-entropy, batch by batch.

The clips' logits are held once, in single precision, in one table that all folds share
(`map_table`): a fold is a choice of its rows, and its streams' temperatures go into the map. One
evaluation of objective and gradient costs 4 N S C² operations for N clips, S streams and C classes,
and holds `BATCH` scores at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from trainers.fit.folds import Rows
from trainers.refinement.score_streams import Floats, log_loss, to_probabilities
from trainers.table import Table

Singles = NDArray[np.float32]

BATCH = 1 << 22
"""Scores in a batch: 16 MB in single precision."""
MOST_ITERATIONS = 60
"""L-BFGS steps per strength."""
INPUTS = "inputs"
"""The one feature of a `map_table`."""


def map_table(table: Table, *, multi_label: bool) -> Table:
    """A table of logits as the map takes them: all systems' side by side, (N, S C) float32.

    They are zero where absent, and the others are scaled up to make up for those. Single-label ones
    are centered by clip, as the softmax does not depend on the mean.
    """
    n, c, s = len(table), next(iter(table.widths.values())), len(table.names)
    inputs = np.empty((n, s * c), np.float32)
    share = s / table.there.sum(1)
    for rows in _slices(n, c):
        for one, name in enumerate(table.names):
            logits = table.features[name][rows]
            if not multi_label:
                logits = logits - logits.mean(1, keepdims=True)
            weight = (table.present[name][rows] * share[rows])[:, None]
            inputs[rows, one * c : (one + 1) * c] = logits * weight
    everywhere = np.ones(n, bool)
    return replace(table, features={INPUTS: inputs}, present={INPUTS: everywhere})


def mapped(inputs: Singles, below: Floats, bias: Floats) -> Floats:
    """(N, C) inputs times (S C, C), plus (C,), in double precision."""
    z = np.empty((len(inputs), len(bias)))
    for rows in _slices(len(inputs), inputs.shape[1]):
        z[rows] = inputs[rows] @ below + bias
    return z


def _slices(n: int, classes: int) -> Iterator[slice]:
    size = max(1, BATCH // classes)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def map_batches(table: Table, rows: Rows) -> Iterator[tuple[Singles, Singles]]:
    """Inputs (B, S C) and dense targets (B, C) of some clips of a `map_table`, in batches."""
    inputs = table.features[INPUTS]
    for part in _slices(len(rows), table.targets.n_classes):
        yield inputs[rows[part]], table.targets[rows[part]].dense(np.float32)


def _scales(temperatures: Floats, classes: int) -> Singles:
    """(S C, 1) 1 / T of each row of the map."""
    return np.repeat(1 / temperatures, classes)[:, None].astype(np.float32)


@dataclass
class LogitMap:
    """Parameters in the optimizer's layout: a (S,), then (S C + 1, C), transposed A and c."""

    vector: Floats
    n_streams: int
    n_classes: int

    def matrix(self) -> Singles:
        """(S C + 1, C): what tempered inputs and a column of ones are multiplied by."""
        c = self.n_classes
        whole = self.vector[self.n_streams :].reshape(-1, c).astype(np.float32)
        for s in range(self.n_streams):
            whole[s * c + np.arange(c), np.arange(c)] += np.float32(self.vector[s])
        return whole

    def loss(self, table: Table, rows: Rows, temperatures: Floats) -> float:
        """Log loss, summed over some clips of a `map_table`."""
        whole, total = self.matrix(), 0.0
        below = whole[:-1] * _scales(temperatures, self.n_classes)
        for inputs, targets in map_batches(table, rows):
            z = (inputs @ below + whole[-1]).astype(np.float64)
            total += log_loss(z, targets > 0, multi_label=table.multi_label) * len(z)
        return total

    def parts(self) -> tuple[Floats, Floats, Floats]:
        """a (S,), A (S, C, C) and c (C,)."""
        s, c = self.n_streams, self.n_classes
        whole = self.vector[s:].reshape(-1, c)
        blocks = whole[:-1].reshape(s, c, c).transpose(0, 2, 1)
        return self.vector[:s].copy(), blocks.copy(), whole[-1].copy()


def fit_maps(
    table: Table, rows: Rows, temperatures: Floats, strengths: Sequence[float]
) -> Iterator[LogitMap]:
    """The fit for each strength, started from the one before.

    Args:
        table: see `map_table`.
        rows: (N,) the clips to fit.
        temperatures: (S,) what the streams' logits are divided by.
        strengths: of the penalty.
    """
    c, s = table.targets.n_classes, len(temperatures)
    vector = np.concatenate([np.full(s, 1 / s), np.zeros((s * c + 1) * c)])
    for strength in strengths:
        found = minimize(
            objective,
            vector,
            args=(table, rows, temperatures, strength),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MOST_ITERATIONS, "ftol": 1e-6, "gtol": 1e-6},
        )
        vector = found.x
        yield LogitMap(vector.copy(), s, c)


def objective(
    vector: Floats, table: Table, rows: Rows, temperatures: Floats, strength: float
) -> tuple[float, Floats]:
    """Mean log loss plus the penalty, and the gradient; see `fit_maps`.

    The products are in single precision, which halves the time; sums are in double.
    """
    c, s = table.targets.n_classes, len(temperatures)
    whole, scales = LogitMap(vector, s, c).matrix(), _scales(temperatures, c)
    slopes = np.zeros((s * c + 1, c))
    loss, scaled = 0.0, whole[:-1] * scales
    for inputs, targets in map_batches(table, rows):
        z = inputs @ scaled + whole[-1]
        loss += _loss_and_slope(z, targets, multi_label=table.multi_label)
        slopes[:-1] += (inputs.T @ z) * scales
        slopes[-1] += z.sum(0, dtype=np.float64)
    n = len(rows)
    slopes /= n
    gradient = np.empty_like(vector)
    gradient[s:] = slopes.ravel()
    for one in range(s):
        gradient[one] = np.trace(slopes[one * c : (one + 1) * c])
    free = vector[s:]
    gradient[s:] += strength * free
    return loss / n + strength / 2 * float(free @ free), gradient


def _loss_and_slope(z: Singles, targets: Singles, *, multi_label: bool) -> float:
    """Summed log loss of (B, C) logits, which become its slope in them."""
    if multi_label:
        loss = log_loss(z.astype(np.float64), targets > 0, multi_label=True) * len(z)
        z[:] = to_probabilities(z, multi_label=True)
        z -= targets
        return loss
    top = z.max(1, keepdims=True)
    chosen = np.einsum("nc,nc->n", z, targets) - top[:, 0]
    np.exp(z - top, out=z)
    sums = z.sum(1, keepdims=True)
    z /= sums
    z -= targets
    return float(np.sum(np.log(sums[:, 0]) - chosen, dtype=np.float64))

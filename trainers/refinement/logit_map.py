"""The learned refinement's sums: a linear map of logits fitted by cross-entropy, batch by batch.

The clips' logits are held once, in single precision, and shared by all folds: a fold is a choice of
rows, and its streams' temperatures go into the map. One evaluation of objective and gradient costs
4 N S C² operations for N clips, S streams and C classes, and holds `BATCH` scores at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from trainers.fit.folds import Rows
from trainers.refinement.score_streams import Floats, Stack, log_loss, to_probabilities

Singles = NDArray[np.float32]

BATCH = 1 << 22
"""Scores in a batch: 16 MB in single precision."""
MOST_ITERATIONS = 60
"""L-BFGS steps per strength."""


def map_inputs(stack: Stack, *, multi_label: bool) -> Singles:
    """(N, S C) logits, zero where absent, the others scaled up by those that lack.

    Single-label ones are centered by clip, as the softmax does not see the mean.
    """
    s, n, c = stack.logits.shape
    inputs = np.empty((n, s * c), np.float32)
    share = s / stack.present.sum(0)
    for rows in _slices(n, c):
        for one in range(s):
            logits = stack.logits[one, rows]
            if not multi_label:
                logits = logits - logits.mean(1, keepdims=True)
            weight = (stack.present[one, rows] * share[rows])[:, None]
            inputs[rows, one * c : (one + 1) * c] = logits * weight
    return inputs


def mapped(inputs: Singles, below: Floats, bias: Floats) -> Floats:
    """(N, C) inputs times (S C, C), plus (C,), in double precision."""
    z = np.empty((len(inputs), len(bias)))
    for rows in _slices(len(inputs), inputs.shape[1]):
        z[rows] = inputs[rows] @ below + bias
    return z


def _slices(n: int, classes: int) -> Iterator[slice]:
    size = max(1, BATCH // classes)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


@dataclass(frozen=True, eq=False)
class MapClips:
    """Clips that a map is fitted to or judged by.

    Args:
        inputs: (M, S C) of all clips, see `map_inputs`.
        rows: (N,) those of them that are meant.
        temperatures: (S,) what the streams' logits are divided by.
        targets: (N, C).
    """

    inputs: Singles
    rows: Rows
    temperatures: Floats
    targets: NDArray[np.bool_]

    @property
    def scales(self) -> Singles:
        """(S C, 1) 1 / T of each row of the map."""
        classes = self.targets.shape[1]
        return np.repeat(1 / self.temperatures, classes)[:, None].astype(np.float32)

    def batches(self) -> Iterator[tuple[Singles, Singles]]:
        """Inputs (B, S C) and targets (B, C) of a part of the clips after another."""
        for part in _slices(len(self.rows), self.targets.shape[1]):
            yield self.inputs[self.rows[part]], self.targets[part].astype(np.float32)


@dataclass
class LogitMap:
    """Parameters as the optimizer has them: a (S,), then (S C + 1, C), transposed A and c."""

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

    def loss(self, clips: MapClips, *, multi_label: bool) -> float:
        """Log loss, summed over the clips."""
        whole, total = self.matrix(), 0.0
        below = whole[:-1] * clips.scales
        for inputs, targets in clips.batches():
            z = (inputs @ below + whole[-1]).astype(np.float64)
            total += log_loss(z, targets > 0, multi_label=multi_label) * len(z)
        return total

    def parts(self) -> tuple[Floats, Floats, Floats]:
        """a (S,), A (S, C, C) and c (C,)."""
        s, c = self.n_streams, self.n_classes
        whole = self.vector[s:].reshape(-1, c)
        blocks = whole[:-1].reshape(s, c, c).transpose(0, 2, 1)
        return self.vector[:s].copy(), blocks.copy(), whole[-1].copy()


def fit_maps(
    clips: MapClips, strengths: Sequence[float], *, multi_label: bool
) -> Iterator[LogitMap]:
    """The fit for each strength, started from the one before."""
    c = clips.targets.shape[1]
    s = len(clips.temperatures)
    vector = np.concatenate([np.full(s, 1 / s), np.zeros((s * c + 1) * c)])
    for strength in strengths:
        found = minimize(
            objective,
            vector,
            args=(clips, strength, multi_label),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MOST_ITERATIONS, "ftol": 1e-6, "gtol": 1e-6},
        )
        vector = found.x
        yield LogitMap(vector.copy(), s, c)


def objective(
    vector: Floats, clips: MapClips, strength: float, multi_label: bool
) -> tuple[float, Floats]:
    """Mean log loss plus the penalty, and the gradient.

    The products are in single precision, which halves the time; sums are in double.
    """
    c, s = clips.targets.shape[1], len(clips.temperatures)
    whole, scales = LogitMap(vector, s, c).matrix(), clips.scales
    slopes = np.zeros((s * c + 1, c))
    loss, scaled = 0.0, whole[:-1] * scales
    for inputs, targets in clips.batches():
        z = inputs @ scaled + whole[-1]
        loss += _loss_and_slope(z, targets, multi_label=multi_label)
        slopes[:-1] += (inputs.T @ z) * scales
        slopes[-1] += z.sum(0, dtype=np.float64)
    n = len(clips.rows)
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

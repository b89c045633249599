"""Several systems' scores of the same clips as one array, and what every way to join them needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from trainers.fit.folds import Rows
from trainers.metrics.measures import accuracy, as_targets, mean_average_precision

Floats = NDArray[np.float64]

LEAST_PROBABILITY = 1e-7
"""Probabilities are kept this far from 0 (and, of several labels, from 1) before the logarithm."""


@dataclass(frozen=True, eq=False)
class Stack:
    """S systems' logits of N clips over C classes.

    Args:
        names: of the systems.
        logits: (S, N, C); zeros where a system has no score.
        present: (S, N) whether it has one.
    """

    names: tuple[str, ...]
    logits: Floats
    present: NDArray[np.bool_]

    @property
    def n_classes(self) -> int:
        return self.logits.shape[2]

    def __len__(self) -> int:
        return self.logits.shape[1]

    def rows(self, index: Rows) -> Stack:
        """Some clips, in the order of `index`."""
        return Stack(self.names, self.logits[:, index], self.present[:, index])

    def one(self, name: str) -> Floats:
        """(N, C) logits of one system."""
        return self.logits[self.names.index(name)]


Streams = Mapping[str, ArrayLike] | Stack
"""System -> (N, C) logits, the row of a clip that the system can't judge holding NaN throughout."""


class ScoreMethod(Protocol):
    """A way to join and refine the scores of several systems.

    ``fit`` takes the streams, ``truth`` ((N,) class indices, or (N, C) zeros and ones of
    multi-label clips) and ``groups`` ((N,) names of what must not be cut by an inner
    cross-validation; default: each clip is a group). ``predict_scores`` gives (N, C)
    probabilities; those of one clip do not depend on the other clips.
    """

    def fit(
        self, streams: Streams, truth: ArrayLike, *, groups: ArrayLike | None = None
    ) -> Self: ...

    def predict_scores(self, streams: Streams) -> Floats: ...


def as_stack(streams: Streams) -> Stack:
    """Checks the streams and puts them into one array.

    Raises:
        ValueError: no stream, shapes that differ, a score that is not finite in a row that is not
            NaN throughout, or a clip without any score.
    """
    if isinstance(streams, Stack):
        return streams
    if not streams:
        raise ValueError("there is no stream of scores")
    arrays = {name: np.asarray(values, np.float64) for name, values in streams.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"scores must all be (N, C) of one shape, got {shapes}")
    logits = np.stack(list(arrays.values()))
    present: NDArray[np.bool_] = np.asarray(~np.isnan(logits).all(2))
    for name, values, rows in zip(arrays, logits, present, strict=True):
        wrong = np.flatnonzero(rows & ~np.isfinite(values).all(1))
        if len(wrong):
            raise ValueError(f"scores of {name!r} hold NaN or infinity in rows {shown(wrong)}")
    alone = np.flatnonzero(~present.any(0))
    if len(alone):
        raise ValueError(f"rows {shown(alone)} have no score from any of {list(arrays)}")
    return Stack(tuple(arrays), np.where(present[..., None], logits, 0.0), present)


def shown(rows: Sequence[int] | NDArray[np.integer]) -> str:
    """The first few of a list of rows, for a message."""
    text = ", ".join(str(row) for row in list(rows)[:5])
    return text if len(rows) <= 5 else f"{text}, ... ({len(rows)} in all)"


def to_logits(probabilities: ArrayLike, *, multi_label: bool = False) -> Floats:
    """log p; of several labels log p / (1 - p). `to_probabilities` takes them back."""
    p = np.clip(np.asarray(probabilities, np.float64), LEAST_PROBABILITY, None)
    if not multi_label:
        return np.log(p)
    p = np.minimum(p, 1 - LEAST_PROBABILITY)
    return np.log(p) - np.log1p(-p)


def to_probabilities(logits: ArrayLike, *, multi_label: bool = False) -> Floats:
    """The softmax over the last axis, or of several labels a sigmoid for each class."""
    z = np.asarray(logits, np.float64)
    if multi_label:
        return 0.5 * (1 + np.tanh(0.5 * z))
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def log_loss(logits: Floats, targets: NDArray[np.bool_], *, multi_label: bool = False) -> float:
    """Mean over clips of the cross-entropy; of several labels summed over the classes.

    Args:
        logits: (N, C).
        targets: (N, C); of single-label clips one true class in each row.
    """
    if multi_label:
        # log(1 + e^z) - t z, with no overflow for large z.
        losses = np.maximum(logits, 0) - targets * logits + np.log1p(np.exp(-np.abs(logits)))
        return float(losses.sum(1).mean())
    top = logits.max(1)
    total = np.log(np.exp(logits - top[:, None]).sum(1)) + top
    return float(np.mean(total - logits[targets]))


def find_temperature(
    logits: Floats, targets: NDArray[np.bool_], *, multi_label: bool = False
) -> float:
    """T in [1e-3, 1e4] for which the softmax (sigmoid) of logits / T has the least log loss."""

    def loss(log_inverse: float) -> float:
        return log_loss(logits * np.exp(log_inverse), targets, multi_label=multi_label)

    bounds = (-np.log(1e4), -np.log(1e-3))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(-found.x))


def check_truth(stack: Stack, truth: ArrayLike, *, multi_label: bool) -> NDArray[np.bool_]:
    """(N, C) targets that fit the stack.

    Raises:
        ValueError: as many labels as clips are needed, in range; single-label clips have one each.
    """
    targets = as_targets(truth, stack.n_classes)
    if len(targets) != len(stack):
        raise ValueError(f"{len(stack)} rows of scores, {len(targets)} of truth")
    if not multi_label and (targets.sum(1) != 1).any():
        rows = np.flatnonzero(targets.sum(1) != 1)
        raise ValueError(f"single-label clips have one label each, not so rows {shown(rows)}")
    return targets


def check_groups(groups: ArrayLike | None, n: int) -> NDArray:
    """(N,) groups; without any, each clip is one.

    Raises:
        ValueError: not one per clip.
    """
    if groups is None:
        return np.arange(n)
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"groups must be ({n},), got {names.shape}")
    return names


def main_measure(scores: Floats, targets: NDArray[np.bool_], *, multi_label: bool) -> float:
    """Accuracy; of multi-label clips mAP (0 where no class has a positive)."""
    if not multi_label:
        return accuracy(scores, targets.argmax(1))
    value = mean_average_precision(scores, targets).value
    return value if np.isfinite(value) else 0.0

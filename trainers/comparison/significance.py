"""Paired tests of two systems on the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from trainers.comparison.method import Bools, Floats

CHUNK = 2_000_000
"""Numbers in a piece of the resampled table."""


def mcnemar(right: Bools, other: Bools) -> float:
    """The exact two-sided p of McNemar's test (1947): do two systems have the same accuracy?

    Only the clips that one of them has right and the other wrong say anything: under the
    hypothesis each is a fair coin. Clips are taken as independent.

    Args:
        right: (N,) whether the one system is right.
        other: (N,) whether the other is.
    """
    if right.shape != other.shape:
        raise ValueError(f"{right.shape} and {other.shape} clips are not paired")
    gained, lost = int((right & ~other).sum()), int((~right & other).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


@dataclass(frozen=True)
class Difference:
    """One system's mAP less another's."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""
    p: float
    """Two-sided."""


@dataclass(frozen=True, eq=False)
class Paired:
    """Two systems' scores of the test clips of one split."""

    scores: Floats
    """(N, C)."""
    other: Floats
    """(N, C)."""
    targets: Floats
    """(N, C) of 0 and 1."""
    groups: NDArray[Any]
    """(N,) names."""


def bootstrap_map(parts: Sequence[Paired], *, samples: int = 1000, seed: int = 0) -> Difference:
    """The difference in mAP, tested by a paired bootstrap (Efron and Tibshirani, 1993).

    Groups of clips are drawn anew from those of all splits, as clips of one source are not
    independent; both systems are judged on the same draw. Over several splits the mean of their
    differences is taken, a split counting as often as its clips were drawn. A class that a draw
    has no positive of is left out of both means. Where all clips are of one group, clips are drawn.
    """
    random = np.random.default_rng(seed)
    units = _units(parts)
    count = max(int(index.max()) for index in units) + 1
    # The first row is the clips as they are.
    drawn = random.multinomial(count, np.full(count, 1 / count), size=samples)
    drawn = np.concatenate([np.ones((1, count), int), drawn])
    total, shares = np.zeros(samples + 1), np.zeros(samples + 1)
    for part, index in zip(parts, units, strict=True):
        weights = drawn[:, index]
        difference = resampled_map(part.scores, part.targets, weights) - resampled_map(
            part.other, part.targets, weights
        )
        total += weights.mean(1) * difference
        shares += weights.mean(1)
    total /= shares
    value, draws = float(total[0]), total[1:]
    low, high = np.quantile(draws, [0.025, 0.975])
    # The 1 counts the clips as they are as one draw, so that no p is 0.
    least = min((1 + (draws <= 0).sum()), (1 + (draws >= 0).sum())) / (samples + 1)
    return Difference(value, float(low), float(high), min(1.0, float(2 * least)))


def _units(parts: Sequence[Paired]) -> list[NDArray[np.int64]]:
    """Per split (N,) number of the unit that each clip is drawn with; the same in no two splits."""
    for groups in ([part.groups for part in parts], [np.arange(len(p.groups)) for p in parts]):
        found, start = [], 0
        for names in groups:
            index = np.unique(names, return_inverse=True)[1]
            found.append(index + start)
            start += int(index.max()) + 1
        if start > 1:
            break
    return found


def resampled_map(scores: Floats, targets: Floats, weights: NDArray[Any]) -> Floats:
    """(B,) mAP of each row of (B, N) weights: how often each clip was drawn."""
    sums, counts = np.zeros(len(weights)), np.zeros(len(weights))
    for c in np.flatnonzero(targets.any(0)):
        found = resampled_precision(scores[:, c], targets[:, c] > 0, weights)
        there = np.isfinite(found)
        sums[there] += found[there]
        counts += there
    return sums / np.maximum(counts, 1)


def resampled_precision(scores: Floats, relevant: Bools, weights: NDArray[Any]) -> Floats:
    """(B,) average precision as in `trainers.metrics`, a clip counting as often as it was drawn.

    NaN for a draw without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = np.empty(len(weights))
    rows = max(1, CHUNK // len(scores))
    for start in range(0, len(weights), rows):
        drawn = weights[start : start + rows, order]
        hits = np.cumsum(drawn * relevant[order], axis=1)[:, ends]
        seen = np.cumsum(drawn, axis=1)[:, ends]
        gained = np.diff(hits, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            found[start : start + rows] = (gained * hits / np.maximum(seen, 1)).sum(1) / hits[:, -1]
    return found

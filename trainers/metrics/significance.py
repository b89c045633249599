"""Paired tests of two systems on the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from trainers.fusion.method import Bools, Floats
from trainers.metrics.bootstrap import CHUNK, Counts, resample, resampled_map, units


def mcnemar(right: Bools, other: Bools) -> float:
    """The exact two-sided p of McNemar's test (1947): do two systems have the same accuracy?

    Only the clips that one of them has right and the other wrong say anything: under the
    hypothesis each is a fair coin. Exact for any number of them, where the χ² form is for many.
    Clips are taken as independent.

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
    """(N,) names, which mean the same in every split."""
    ids: NDArray[Any]
    """(N,) of the clips; those of one id in several splits are one clip."""


def bootstrap_map(
    parts: Sequence[Paired], *, samples: int = 1000, seed: int = 0, chunk: int = CHUNK
) -> Difference:
    """The difference in mAP, tested by a paired bootstrap (Efron and Tibshirani, 1993).

    Groups of clips are drawn anew from those of all splits, as clips of one source are not
    independent; both systems are judged on the same draw. A group or clip that several splits test
    is drawn in all of them together, as its repeats say little that is new. Over several splits the
    mean of their differences is taken, a split counting as often as its clips were drawn. A class
    that a draw has no positive of is left out of both means. Where all clips are of one group,
    clips are drawn.

    Args:
        samples: draws.
        chunk: counts of clips held at once; the result does not depend on it.
    """

    def difference(counts: list[Counts]) -> Floats:
        total, shares = np.zeros(len(counts[0])), np.zeros(len(counts[0]))
        for part, drawn in zip(parts, counts, strict=True):
            found = resampled_map(part.scores, part.targets, drawn)
            found = found - resampled_map(part.other, part.targets, drawn)
            total += drawn.mean(1) * found
            shares += drawn.mean(1)
        return total / shares

    # The clips as they are: each stands once.
    value = float(difference([np.ones((1, len(part.targets)), np.int64) for part in parts])[0])
    drawn = units([part.groups for part in parts], [part.ids for part in parts])
    draws = resample(drawn, difference, samples=samples, seed=seed, chunk=chunk)
    low, high = np.quantile(draws, [0.025, 0.975])
    # The 1 counts the clips as they are as one draw, so that no p is 0.
    least = min((1 + (draws <= 0).sum()), (1 + (draws >= 0).sum())) / (samples + 1)
    return Difference(value, float(low), float(high), min(1.0, float(2 * least)))

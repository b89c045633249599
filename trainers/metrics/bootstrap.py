"""The paired bootstrap (Efron and Tibshirani, 1993) that all tests of scores draw by.

Sets of clips are drawn by how often each clip stands in them, (R, N) counts, a few sets at a time:
memory depends on `CHUNK`, neither on the number of sets nor on that of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

CHUNK = 2_000_000
"""Counts that are held at once (16 MB; a measure needs a few times that)."""


def units(
    groups: Sequence[ArrayLike], clips: Sequence[ArrayLike], *, fewest: int = 2
) -> list[NDArray[np.intp]]:
    """Per part (N,) the number of the unit that each clip is drawn with.

    Units are groups of clips, as clips of one source are not independent; where all parts together
    have fewer groups than ``fewest``, whose spread would say little, single clips. One name is one
    unit wherever it stands: a clip that several parts test is drawn in all of them or in none.

    Args:
        groups: per part (N,) names of groups, which mean the same in all parts.
        clips: per part (N,) names of clips, which mean the same in all parts.
    """
    found: list[NDArray[np.intp]] = []
    for names in (groups, clips):
        numbers: dict[Any, int] = {}
        found = []
        for part in names:
            kinds, index = np.unique(np.asarray(part), return_inverse=True)
            known = [numbers.setdefault(kind, len(numbers)) for kind in kinds.tolist()]
            found.append(np.array(known, np.intp)[index])
        if len(numbers) >= fewest:
            break
    return found


def resample(
    parts: Sequence[NDArray[np.intp]],
    measure: Callable[[list[Counts]], Floats],
    *,
    samples: int,
    seed: int,
    chunk: int = CHUNK,
) -> Floats:
    """(samples, ...) a measure on sets of as many units as there are, drawn with replacement.

    Args:
        parts: from `units`.
        measure: per part (R, N) counts -> (R, ...) values, each set judged by itself.
        samples: sets.
        seed: of the draws; the result does not depend on ``chunk``.
        chunk: counts held at once.
    """
    random = np.random.default_rng(seed)
    count = 1 + max(int(index.max()) for index in parts)
    shares = np.full(count, 1 / count)
    rows = max(1, chunk // max(count, *(len(index) for index in parts)))
    found = []
    for start in range(0, samples, rows):
        drawn = random.multinomial(count, shares, size=min(rows, samples - start))
        found.append(measure([drawn[:, index] for index in parts]))
    return np.concatenate(found)


def resampled_accuracy(scores: Floats, targets: NDArray[Any], counts: Counts) -> Floats:
    """(R,) accuracy on each set; 0 on an empty one. ``targets`` (N, C), one class in each row."""
    right = np.asarray(targets)[np.arange(len(scores)), scores.argmax(1)] > 0
    return counts @ right / np.maximum(counts.sum(1), 1)


def resampled_map(scores: Floats, targets: NDArray[Any], counts: Counts) -> Floats:
    """(R,) mAP on each set, over the classes that it has a positive of; 0 without any.

    Args:
        scores: (N, C).
        targets: (N, C) of 0 and 1.
        counts: (R, N) how often each clip stands in the set.
    """
    sums, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for c in np.flatnonzero(targets.any(0)):
        found = resampled_precision(scores[:, c], targets[:, c] > 0, counts)
        there = np.isfinite(found)
        sums[there] += found[there]
        classes += there
    return sums / np.maximum(classes, 1)


def resampled_precision(scores: Floats, relevant: NDArray[np.bool_], counts: Counts) -> Floats:
    """(R,) `metrics.average_precision` of each set, a clip counting as often as it stands there.

    NaN for a set without a positive.
    """
    if not relevant.any():
        return np.full(len(counts), np.nan)
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], relevant[order]
    # Only the steps of equal scores that hold a positive add to the area.
    step = np.cumsum(np.append(0, ranked[1:] != ranked[:-1]))
    last = np.flatnonzero(np.append(step[1:] != step[:-1], True))
    of_positive = np.flatnonzero(positive)
    steps, first = np.unique(step[of_positive], return_index=True)
    # Clips between two such steps count as one, which is what a running sum at their ends needs.
    starts = np.append(0, last[steps][:-1] + 1)
    end = last[steps][-1] + 1
    seen = np.cumsum(np.add.reduceat(counts[:, order[:end]], starts, axis=1), axis=1)
    gained = np.add.reduceat(counts[:, order[of_positive]], first, axis=1)
    found = np.cumsum(gained, axis=1)
    positives = found[:, -1]
    area = (gained * found / np.maximum(seen, 1)).sum(1)
    return np.where(positives > 0, area / np.maximum(positives, 1), np.nan)

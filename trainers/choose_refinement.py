"""Which refinement helps: cross-validated scores by group, and whether a gain is beyond noise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from trainers.folds import group_folds
from trainers.score_streams import (
    Floats,
    ScoreMethod,
    Stack,
    check_groups,
    check_truth,
    main_measure,
)

NONE = "none"
LEVEL = 0.05
"""Chance of preferring a refinement that does nothing, all candidates together."""
RESAMPLES = 1000
FEWEST_GROUPS = 10
"""With fewer groups, clips are resampled: a handful of groups says little about their spread."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, and why.

    Args:
        name: of the chosen method.
        reason: in words.
        measures: method -> cross-validated accuracy (mAP if multi-label).
        chances: method -> the share of resampled sets on which it does no better than ``none``.
        held_out: method -> (N, C) scores of the clips by fits that have not seen their group.
    """

    name: str
    reason: str
    measures: Mapping[str, float] = field(default_factory=dict)
    chances: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, Floats] = field(default_factory=dict)


def cross_validate(
    methods: Mapping[str, Callable[[], ScoreMethod]],
    stack: Stack,
    truth: ArrayLike,
    groups: NDArray,
    folds: int,
    *,
    on_fit: Callable[[int, int], None] = lambda done, total: None,
    workers: int | None = None,
) -> dict[str, Floats]:
    """Method -> (N, C) scores of clips by a fit on the other folds' clips alone.

    Args:
        methods: name -> what makes an unfitted method.
        groups: (N,) whole groups are held out, see `group_folds`.
        on_fit: called with the numbers of fits done and to do.
        workers: threads; default: one per CPU.
    """
    labels = np.asarray(truth)
    pairs = list(group_folds(groups, folds))
    held_out = {name: np.full(stack.logits.shape[1:], np.nan) for name in methods}

    def fit(name: str, fold: int) -> None:
        rows, held = pairs[fold]
        method = methods[name]().fit(stack.rows(rows), labels[rows], groups=groups[rows])
        held_out[name][held] = method.predict_scores(stack.rows(held))

    tasks = [(name, fold) for name in methods for fold in range(len(pairs))]
    # Each thread's matrix products stay in it: a fold is small.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
    ):
        # The last methods are the slowest: they start first, so that no thread idles at the end.
        waiting = [pool.submit(fit, *task) for task in reversed(tasks)]
        for done, one in enumerate(waiting, start=1):
            one.result()
            on_fit(done, len(tasks))
    return held_out


def choose(
    held_out: Mapping[str, Floats],
    truth: ArrayLike,
    groups: NDArray,
    *,
    multi_label: bool,
    seed: int = 0,
) -> Choice:
    """The method with the best held-out scores, if it beats ``none`` beyond noise; else ``none``.

    A paired bootstrap draws sets of groups (of clips where there are fewer than `FEWEST_GROUPS`
    groups); a method counts as better if it does no better than ``none`` on at most
    `LEVEL` / (number of candidates) of them.

    Args:
        held_out: from `cross_validate`, ``none`` among them.
    """
    plain = held_out[NONE]
    targets = check_truth(Stack(("",), plain[None], np.ones((1, len(plain)), bool)), truth,
                          multi_label=multi_label)  # fmt: skip
    word = "mAP" if multi_label else "accuracy"
    measures = {
        name: main_measure(scores, targets, multi_label=multi_label)
        for name, scores in held_out.items()
    }
    rivals = [name for name in held_out if name != NONE]
    weights = _drawn(groups, seed)
    before = _resampled(plain, targets, weights, multi_label=multi_label)
    chances = {}
    for name in rivals:
        after = _resampled(held_out[name], targets, weights, multi_label=multi_label)
        chances[name] = float(np.mean(after - before <= 1e-12))
    level = LEVEL / max(len(rivals), 1)
    better = [n for n in rivals if chances[n] <= level and measures[n] > measures[NONE]]
    if not better:
        best = max(rivals, key=lambda name: measures[name]) if rivals else NONE
        reason = (
            f"nothing beats the plain mean's {word} of {measures[NONE]:.4f} beyond noise "
            f"(best: {best}, {measures[best]:.4f})"
        )
        return Choice(NONE, reason, measures, chances, held_out)
    name = max(better, key=lambda name: measures[name])
    reason = (
        f"{word} {measures[name]:.4f} by cross-validation, {measures[NONE]:.4f} for the plain mean"
    )
    return Choice(name, reason, measures, chances, held_out)


def _drawn(groups: NDArray, seed: int) -> NDArray[np.int64]:
    """(RESAMPLES, N) how often each clip is in each drawn set."""
    names, inverse = np.unique(groups, return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        names, inverse = np.arange(len(groups)), np.arange(len(groups))
    random = np.random.default_rng(seed)
    share = np.full(len(names), 1 / len(names))
    return random.multinomial(len(names), share, size=RESAMPLES)[:, inverse]


def _resampled(
    scores: Floats, targets: NDArray[np.bool_], weights: NDArray[np.int64], *, multi_label: bool
) -> Floats:
    """(RESAMPLES,) the main measure on every drawn set."""
    if not multi_label:
        right = targets[np.arange(len(scores)), scores.argmax(1)]
        return weights @ right / np.maximum(weights.sum(1), 1)
    total, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for column in np.flatnonzero(targets.any(0)):
        precision = weighted_average_precision(scores[:, column], targets[:, column], weights)
        there = ~np.isnan(precision)
        total[there] += precision[there]
        counted += there
    return total / np.maximum(counted, 1)


def weighted_average_precision(
    scores: Floats, relevant: NDArray[np.bool_], weights: NDArray[np.int64]
) -> Floats:
    """(R,) `metrics.average_precision` of each set in which clip n stands weights[r, n] times.

    NaN for a set without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    seen = np.cumsum(weights[:, order], axis=1)[:, ends]
    found = np.cumsum(weights[:, order] * relevant[order], axis=1)[:, ends]
    gained = np.diff(found, axis=1, prepend=0)
    positives = found[:, -1]
    area = (gained * found / np.maximum(seen, 1)).sum(1)
    return np.where(positives > 0, area / np.maximum(positives, 1), np.nan)


def default_folds(groups: ArrayLike) -> int:
    """Leave one group out up to ten groups, else ten folds."""
    names = np.asarray(groups)
    return min(10, len(np.unique(check_groups(names, len(names)))))


def no_choice(reason: str, *, name: str = NONE) -> Choice:
    """Where there is nothing to choose by, or nothing to choose."""
    return Choice(name, reason)

"""Which refinement helps: cross-validated scores by group, and whether a gain is beyond noise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from trainers.fit.folds import group_folds
from trainers.metrics.bootstrap import Counts, resample, resampled_accuracy, resampled_map, units
from trainers.refinement.score_streams import (
    Floats,
    ScoreMethod,
    main_measure,
)
from trainers.table import Table
from trainers.targets import Targets

NONE = "none"
LEVEL = 0.05
"""Chance, over all candidates, of choosing a refinement that has no effect."""
RESAMPLES = 1000
FEWEST_GROUPS = 10
"""With fewer groups, clips are resampled: a few groups say little about their variance."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen refinement, and why it was chosen.

    Args:
        name: of the chosen method.
        reason: a sentence for people.
        measures: method -> cross-validated accuracy (mAP if multi-label).
        chances: method -> the share of resampled sets on which it does no better than ``none``.
        held_out: method -> (N, C) scores of the clips by fits without their group.
    """

    name: str
    reason: str
    measures: Mapping[str, float] = field(default_factory=dict)
    chances: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, Floats] = field(default_factory=dict)


def cross_validate(
    methods: Mapping[str, Callable[[], ScoreMethod]],
    table: Table,
    folds: int,
    *,
    on_fit: Callable[[int, int], None] = lambda done, total: None,
    workers: int | None = None,
) -> dict[str, Floats]:
    """Method -> (N, C) scores of the clips, each by a fit on the other folds.

    Args:
        methods: name -> what makes an unfitted method.
        table: of logits; whole groups are held out, see `group_folds`.
        folds: number of folds.
        on_fit: called with the numbers of fits done and to do.
        workers: threads; default: one per CPU.
    """
    pairs = group_folds(table.groups, folds)
    shape = len(table), table.targets.n_classes
    held_out = {name: np.full(shape, np.nan) for name in methods}

    def fit(name: str, fold: int) -> None:
        rows, held = pairs[fold]
        method = methods[name]().fit(table.part(rows))
        held_out[name][held] = method.predict_scores(table.part(held))

    tasks = [(name, fold) for name in methods for fold in range(len(pairs))]
    # Each thread's matrix products stay in it: a fold is small.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
    ):
        # The last methods are the slowest: they start first, so that no thread idles at the end.
        waiting = [pool.submit(fit, *task) for task in reversed(tasks)]
        for done, one in enumerate(waiting, start=1):
            one.result()
            on_fit(done, len(tasks))
    return held_out


def choose(
    held_out: Mapping[str, Floats],
    targets: Targets,
    groups: NDArray,
    *,
    seed: int = 0,
) -> Choice:
    """The method with the best held-out scores, if it beats ``none`` beyond noise; else ``none``.

    A paired bootstrap draws sets of groups (of clips where there are fewer than `FEWEST_GROUPS`
    groups); a method counts as better if it does no better than ``none`` on at most
    `LEVEL` / (number of candidates) of them.

    Args:
        held_out: from `cross_validate`, ``none`` among them.
        targets: of the N clips.
        groups: (N,).
        seed: of the bootstrap.
    """
    plain, truth, multi_label = held_out[NONE], targets.dense(bool), targets.multi_label
    word = "mAP" if multi_label else "accuracy"
    measures = {
        name: main_measure(scores, truth, multi_label=multi_label)
        for name, scores in held_out.items()
    }
    rivals = [name for name in held_out if name != NONE]
    resampled = resampled_map if multi_label else resampled_accuracy

    def gains(counts: list[Counts]) -> Floats:
        """(R, rivals)."""
        before = resampled(plain, truth, counts[0])
        after = [resampled(held_out[name], truth, counts[0]) for name in rivals]
        return np.stack(after, axis=1) - before[:, None]

    chances: dict[str, float] = {}
    if rivals:
        drawn_by = units([groups], [np.arange(len(plain))], fewest=FEWEST_GROUPS)
        drawn = resample(drawn_by, gains, samples=RESAMPLES, seed=seed)
        no_better = np.mean(drawn <= 1e-12, axis=0)
        chances = {name: float(no_better[k]) for k, name in enumerate(rivals)}
    level = LEVEL / max(len(rivals), 1)
    better = [n for n in rivals if chances[n] <= level and measures[n] > measures[NONE]]
    if not better:
        best = max(measures, key=lambda name: (measures[name], name == NONE))
        seen = "no other is above it" if best == NONE else f"best: {best}, {measures[best]:.4f}"
        reason = (
            f"nothing beats the plain mean's {word} of {measures[NONE]:.4f} beyond noise ({seen})"
        )
        return Choice(NONE, reason, measures, chances, held_out)
    name = max(better, key=lambda name: measures[name])
    reason = (
        f"{word} {measures[name]:.4f} by cross-validation, {measures[NONE]:.4f} for the plain mean"
    )
    return Choice(name, reason, measures, chances, held_out)


def default_folds(groups: ArrayLike) -> int:
    """Leave one group out up to ten groups, else ten folds."""
    return min(10, len(np.unique(groups)))


def no_choice(reason: str, *, name: str = NONE) -> Choice:
    """A choice without a comparison: there is no data for one, or only one candidate."""
    return Choice(name, reason)

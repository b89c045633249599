"""Folds of a cross-validation that never split a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from actors.errors import UserError

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(training rows, held-out rows)."""


def group_folds(
    targets: NDArray[np.generic], groups: NDArray[np.generic], folds: int, *, seed: int
) -> list[Fold]:
    """Divides clips into folds without splitting a group, classes spread evenly where that can be.

    Args:
        targets: (N, C) 0 or 1. A clip with several labels counts under its rarest.
        groups: (N,) names of groups (clips cut from one video, of one person).
        folds: wanted; with fewer groups there are as many folds as groups.
        seed: of the shuffle before the classes are spread.

    Returns:
        (training rows, held-out rows) of each fold; every clip is held out exactly once.

    Raises:
        UserError: there is only one group.
    """
    targets, groups = np.asarray(targets, bool), np.asarray(groups)
    count = len(np.unique(groups))
    if count < 2:
        raise UserError(
            f"cross-validation needs clips of at least 2 groups, the {len(groups)} training clips "
            f"are all of one ({groups[0]!r}); give each video a group of its own, or better ones"
        )
    folds = min(folds, count)
    rarity = np.where(targets, targets.sum(0), targets.size + 1)
    # A clip without a label is a class of its own.
    kinds = np.where(targets.any(1), rarity.argmin(1), targets.shape[1])
    empty = np.zeros((len(kinds), 1))
    if folds <= np.unique(kinds, return_counts=True)[1].min():
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        parts = list(splitter.split(empty, kinds, groups))
        if all(len(held) for _, held in parts):
            return parts
    return list(GroupKFold(folds).split(empty, kinds, groups))

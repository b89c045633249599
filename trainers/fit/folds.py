"""Folds of a cross-validation that never split a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actors.errors import UserError
from trainers.targets import Targets

Rows = NDArray[np.intp]
Fold = tuple[Rows, Rows]
"""(training rows, held-out rows)."""


def group_folds(
    groups: ArrayLike, folds: int, *, targets: Targets | None = None, seed: int = 0
) -> list[Fold]:
    """Divides clips into folds without splitting a group.

    Without ``targets`` the folds have similar sizes, and do not depend on the order of the clips:
    the largest group goes first, each to the smallest fold so far; ties by the group's name and the
    fold's number. With ``targets`` classes are spread evenly where each has a clip for every fold.

    Args:
        groups: (N,) names of groups (clips cut from one video, of one person).
        folds: wanted; with fewer groups there are as many folds as groups.
        targets: of the N clips. A clip with several labels counts under its rarest.
        seed: of the shuffle before the classes are spread.

    Returns:
        Rows of each fold, in order; every clip is held out exactly once.

    Raises:
        ValueError: fewer than two folds.
        UserError: there is only one group.
    """
    if folds < 2:
        raise ValueError(f"cross-validation needs two folds, not {folds}")
    names, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UserError(
            f"cross-validation needs clips of at least 2 groups, the {len(inverse)} clips are all "
            f"of one ({names[0]!r}); give each video a group of its own, or better ones"
        )
    folds = min(folds, len(names))
    parts = None
    if targets is not None:
        # Only here, because the refinement of scores is to do without scikit-learn.
        from trainers.fit.spread_folds import spread

        parts = spread(inverse, folds, targets, seed)
    if parts is None:
        fold_of, filled = np.zeros(len(names), int), np.zeros(folds, int)
        for group in np.argsort(-sizes, kind="stable"):
            fold_of[group] = filled.argmin()
            filled[fold_of[group]] += sizes[group]
        of_clip = fold_of[inverse]
        parts = [
            (np.flatnonzero(of_clip != fold), np.flatnonzero(of_clip == fold))
            for fold in range(folds)
        ]
    return parts

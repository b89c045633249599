"""Folds that split no group, with the classes spread evenly over them, by scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from trainers.fit.folds import Fold, Rows
from trainers.targets import Targets


def spread(groups: Rows, folds: int, targets: Targets, seed: int) -> list[Fold] | None:
    """Folds with the classes spread evenly; None where a class has too few clips for that."""
    # A clip without a label is a class of its own.
    kinds = np.where(targets.counts > 0, targets.rarest(), targets.n_classes)
    if folds > np.unique(kinds, return_counts=True)[1].min():
        return None
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = list(splitter.split(np.zeros((len(kinds), 1)), kinds, groups))
    return parts if all(len(held) for _, held in parts) else None

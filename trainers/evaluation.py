"""From every system's scores to the ensemble, its refinement and all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.ensemble import mean_scores
from trainers.metrics import confusion_matrix, mean_average_precision, summary
from trainers.refinement import RefinementSettings, confusion_refinement, refine

HYBRID_SYSTEMS = ("spatial_lstm", "motion_lstm", "fusion")
"""What the ensemble averages (Jiang et al., section III-D)."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class SystemScores:
    """One system's scores of N clips.

    Args:
        scores: (N, C) probabilities; rows of clips that it can't judge hold zeros.
        present: (N,) whether it can.
    """

    scores: Floats
    present: NDArray[np.bool_]

    def part(self, rows: NDArray[np.intp]) -> SystemScores:
        return SystemScores(self.scores[rows], self.present[rows])


@dataclass(frozen=True)
class MethodFigures:
    """How a method does on the clips that it can judge.

    Args:
        n: number of those clips.
        n_all: number of all test clips.
        measures: see `metrics.summary`; empty where n is 0.
        accuracy_all: share of *all* clips whose first guess is right, a clip that the method can't
            judge counting as wrong; None for multi-label data.
    """

    n: int
    n_all: int
    measures: Mapping[str, float]
    accuracy_all: float | None


def hybrid_scores(systems: Mapping[str, SystemScores]) -> SystemScores:
    """The plain mean, clip by clip, of the LSTMs' and the fusion network's scores."""
    chosen = {name: systems[name] for name in HYBRID_SYSTEMS if name in systems}
    mean = mean_scores(
        {name: s.scores for name, s in chosen.items()},
        {name: s.present for name, s in chosen.items()},
    )
    return SystemScores(mean, np.ones(len(mean), bool))


def fit_refinement(
    validation: Floats, truth: NDArray, settings: RefinementSettings, n_classes: int
) -> NDArray[np.float64]:
    """R of the settings' method; the identity for ``none`` or without validation clips."""
    if settings.method == "none" or not len(validation):
        return np.eye(n_classes)
    return confusion_refinement(validation, truth)


def refined_scores(
    hybrid: SystemScores,
    refinement: NDArray[np.float64],
    settings: RefinementSettings,
    *,
    multi_label: bool,
) -> SystemScores:
    """The ensemble's scores refined; single-label ones sum to 1 if the settings say so."""
    scores = refine(hybrid.scores, refinement, normalise=settings.normalise and not multi_label)
    return SystemScores(scores, hybrid.present)


def judge(system: SystemScores, targets: Floats, *, multi_label: bool) -> MethodFigures:
    """All figures of one method on the test clips.

    Args:
        system: N clips' scores.
        targets: (N, C) zeros and ones.
    """
    rows = np.flatnonzero(system.present)
    if not len(rows):
        return MethodFigures(0, len(targets), {}, None if multi_label else 0.0)
    truth = targets[rows].astype(bool) if multi_label else targets[rows].argmax(1)
    measures = summary(system.scores[rows], truth, multi_label=multi_label)
    everywhere = None if multi_label else measures["accuracy"] * len(rows) / len(targets)
    return MethodFigures(len(rows), len(targets), measures, everywhere)


def per_class_ap(system: SystemScores, targets: Floats, classes: Sequence[str]) -> Floats:
    """(C,) average precision of every class; NaN for a class without a test clip."""
    truth = targets[system.present].astype(bool)
    return mean_average_precision(system.scores[system.present], truth, classes=classes).per_class


def confusions(system: SystemScores, targets: Floats) -> NDArray[np.integer]:
    """(C, C) counts, rows the truth; single-label data only."""
    rows = system.present
    return confusion_matrix(
        system.scores[rows].argmax(1), targets[rows].argmax(1), targets.shape[1]
    )

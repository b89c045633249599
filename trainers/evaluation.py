"""From every system's scores to the ensemble, its refinement and all figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.ensemble import mean_scores
from trainers.metrics.measures import confusion_matrix, mean_average_precision, summary
from trainers.refinement.choose import Choice, choose, cross_validate, no_choice
from trainers.refinement.fitted import FittedRefinement, make_method, stack_of
from trainers.refinement.score_streams import ScoreMethod
from trainers.settings import RefinementSettings

HYBRID_SYSTEMS = ("spatial_lstm", "motion_lstm", "fusion")
"""What the ensemble averages (Jiang et al., section III-D)."""

REFINEMENTS = ("confusion", "dasd", "learned")
"""What is fitted on the validation clips, shown, and chosen from."""

MOST_FOLDS = 5
"""Of the cross-validation that chooses."""

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


def members(systems: Mapping[str, SystemScores]) -> dict[str, Floats]:
    """What the ensemble averages: system -> (N, C), a clip that it can't judge holding NaN."""
    return {
        name: np.where(systems[name].present[:, None], systems[name].scores, np.nan)
        for name in HYBRID_SYSTEMS
        if name in systems
    }


@dataclass(frozen=True, eq=False)
class Refinements:
    """Every refinement, fitted on the validation clips, and which of them is used.

    Args:
        fitted: method -> refinement; empty without validation clips.
        choice: its name is ``none`` or a key of ``fitted``.
    """

    fitted: Mapping[str, FittedRefinement]
    choice: Choice

    @property
    def chosen(self) -> FittedRefinement | None:
        return self.fitted.get(self.choice.name)


def fit_refinements(
    validation: Mapping[str, Floats],
    truth: NDArray,
    groups: NDArray,
    settings: RefinementSettings,
    *,
    classes: Sequence[str],
    multi_label: bool,
) -> Refinements:
    """Fits all of `REFINEMENTS`; for ``auto``, chooses by cross-validation by group.

    Args:
        validation: of the validation clips, see `members`; no test clip is ever among them.
        truth: (N,) class indices, or (N, C) booleans of multi-label clips.
        groups: (N,) what a fold must not cut.
    """
    if not len(truth):
        return Refinements({}, no_choice("there are no validation clips"))
    fitted = {
        name: FittedRefinement.fit(
            name,
            validation,
            truth,
            given="probabilities",
            classes=tuple(classes),
            multi_label=multi_label,
            groups=groups,
            normalize=settings.normalize,
        )
        for name in REFINEMENTS
    }
    if settings.method != "auto":
        return Refinements(fitted, no_choice("asked for", name=settings.method))
    folds = min(MOST_FOLDS, len(np.unique(groups)))
    if folds < 2:
        return Refinements(fitted, no_choice("the validation clips are all in one group"))
    held_out = cross_validate(
        {name: _maker(name, settings, multi_label) for name in ("none", *REFINEMENTS)},
        stack_of(validation, given="probabilities", multi_label=multi_label),
        truth,
        groups,
        folds,
    )
    return Refinements(fitted, choose(held_out, truth, groups, multi_label=multi_label))


def _maker(name: str, settings: RefinementSettings, multi_label: bool) -> Callable[[], ScoreMethod]:
    return lambda: make_method(
        name, given="probabilities", multi_label=multi_label, normalize=settings.normalize
    )


def refined_systems(
    systems: Mapping[str, SystemScores], refinements: Refinements
) -> dict[str, SystemScores]:
    """``refined_METHOD`` for every method, and ``refined``: what is chosen."""
    hybrid, given = systems["hybrid"], members(systems)
    found = {
        f"refined_{name}": SystemScores(one.predict_scores(given), hybrid.present)
        for name, one in refinements.fitted.items()
    }
    return {**found, "refined": found.get(f"refined_{refinements.choice.name}", hybrid)}


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

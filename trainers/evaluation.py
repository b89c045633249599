"""From every system's scores to the ensemble, its refinement and all figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainers.ensemble import mean_scores
from trainers.metrics.measures import confusion_matrix, mean_average_precision, summary
from trainers.refinement.choose import Choice, choose, cross_validate, no_choice
from trainers.refinement.fitted import FittedRefinement, make_method
from trainers.refinement.score_streams import ScoreMethod, logit_table
from trainers.settings import RefinementSettings
from trainers.table import Table
from trainers.targets import Targets

REFINEMENTS = ("confusion", "dasd", "learned")
"""What is fitted on the validation clips, shown, and chosen from."""

MOST_FOLDS = 5
"""Of the cross-validation that chooses."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class SystemScores:
    """One system's scores of N clips.

    Args:
        scores: (N, C) probabilities; zeros where it has none.
        present: (N,) whether it has scores of the clip.
    """

    scores: Floats
    present: NDArray[np.bool_]

    def part(self, rows: NDArray[np.intp]) -> SystemScores:
        """Its scores of some of the clips."""
        return SystemScores(self.scores[rows], self.present[rows])


@dataclass(frozen=True)
class MethodFigures:
    """Figures of a method on the clips that it has scores of.

    Args:
        n: number of those clips.
        n_all: number of all test clips.
        measures: see `metrics.summary`; empty where n is 0.
        accuracy_all: share of *all* clips whose first guess is right, a clip without scores
            counting as wrong; None for multi-label data.
    """

    n: int
    n_all: int
    measures: Mapping[str, float]
    accuracy_all: float | None


def ensemble_scores(systems: Mapping[str, SystemScores], members: Sequence[str]) -> SystemScores:
    """The plain mean, clip by clip, of the members' scores.

    Args:
        systems: name -> scores.
        members: those that are averaged; names that ``systems`` lacks are left out.
    """
    chosen = {name: systems[name] for name in members if name in systems}
    mean = mean_scores(
        {name: s.scores for name, s in chosen.items()},
        {name: s.present for name, s in chosen.items()},
    )
    return SystemScores(mean, np.ones(len(mean), bool))


def member_scores(
    systems: Mapping[str, SystemScores], clips: Table, members: Sequence[str]
) -> Table:
    """The members' scores as a table, with the targets, groups, splits and ids of the clips.

    Args:
        systems: name -> scores of the clips.
        clips: any table of the same clips.
        members: see `ensemble_scores`.
    """
    chosen = {name: systems[name] for name in members if name in systems}
    return replace(
        clips,
        features={name: one.scores for name, one in chosen.items()},
        present={name: one.present for name, one in chosen.items()},
    )


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
    validation: Table, settings: RefinementSettings, *, classes: Sequence[str]
) -> Refinements:
    """Fits all of `REFINEMENTS`; for ``auto``, chooses by cross-validation by group.

    Args:
        validation: the members' scores of the validation clips, see `member_scores`; no test clip
            is ever among them.
        settings: of the refinement.
        classes: C names.
    """
    if not len(validation):
        return Refinements({}, no_choice("there are no validation clips"))
    fitted = {
        name: FittedRefinement.fit(
            name,
            validation,
            given="probabilities",
            classes=tuple(classes),
            normalize=settings.normalize,
        )
        for name in REFINEMENTS
    }
    if settings.method != "auto":
        return Refinements(fitted, no_choice("asked for", name=settings.method))
    folds = min(MOST_FOLDS, len(np.unique(validation.groups)))
    if folds < 2:
        return Refinements(fitted, no_choice("the validation clips are all in one group"))
    several = validation.multi_label
    held_out = cross_validate(
        {name: _maker(name, settings, several) for name in ("none", *REFINEMENTS)},
        logit_table(validation, given="probabilities", multi_label=several),
        folds,
    )
    return Refinements(fitted, choose(held_out, validation.targets, validation.groups))


def _maker(name: str, settings: RefinementSettings, multi_label: bool) -> Callable[[], ScoreMethod]:
    return lambda: make_method(
        name, given="probabilities", multi_label=multi_label, normalize=settings.normalize
    )


def refined_scores(
    ensemble: SystemScores, members: Table, refinements: Refinements
) -> dict[str, SystemScores]:
    """``refined_METHOD`` for every method, and ``refined``: what is chosen.

    Args:
        ensemble: the members' plain mean.
        members: see `member_scores`.
        refinements: fitted on these members.
    """
    found = {
        f"refined_{name}": SystemScores(one.predict_scores(members), ensemble.present)
        for name, one in refinements.fitted.items()
    }
    return {**found, "refined": found.get(f"refined_{refinements.choice.name}", ensemble)}


def evaluate_scores(system: SystemScores, targets: Targets) -> MethodFigures:
    """All figures of one method on the test clips.

    Args:
        system: N clips' scores.
        targets: of the N clips.
    """
    rows = np.flatnonzero(system.present)
    several = targets.multi_label
    if not len(rows):
        return MethodFigures(0, len(targets), {}, None if several else 0.0)
    measures = summary(system.scores[rows], targets[rows].truth(), multi_label=several)
    everywhere = None if several else measures["accuracy"] * len(rows) / len(targets)
    return MethodFigures(len(rows), len(targets), measures, everywhere)


def per_class_ap(system: SystemScores, targets: Targets, classes: Sequence[str]) -> Floats:
    """(C,) average precision of every class; NaN for a class without a test clip."""
    truth = targets[system.present].dense(bool)
    return mean_average_precision(system.scores[system.present], truth, classes=classes).per_class


def confusions(system: SystemScores, targets: Targets) -> NDArray[np.integer]:
    """(C, C) counts, rows the truth; single-label data only."""
    rows = system.present
    return confusion_matrix(
        system.scores[rows].argmax(1), targets[rows].classes(), targets.n_classes
    )

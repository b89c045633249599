"""The contextual refinement at its bounds, and its shrinkage against a plain cross-validation."""

import numpy as np
import pytest
from made_scores import fitted_fields, made

from trainers.fit.folds import group_folds
from trainers.metrics.measures import accuracy, mean_average_precision
from trainers.refinement.confusion import (
    SHRINKAGES,
    ContextualRefinement,
    confusion_refinement,
    refine,
)
from trainers.refinement.late_fusion import MeanOfProbabilities


def test_a_class_of_one_clip_has_a_row_of_its_prediction():
    matrix = confusion_refinement([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]], [0, 2])
    assert matrix.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_scores_by_hand_with_and_without_normalization():
    matrix = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [0.0, 0.0, 0.0]])
    scores = np.array([[0.2, 0.4, 0.0], [0.0, 0.0, 0.5]])
    plain = [[0.3, 0.1, 0.0], [0.0, 0.375, 0.0]]
    np.testing.assert_allclose(refine(scores, matrix), plain)
    np.testing.assert_allclose(
        refine(scores, matrix, normalize=True), [[0.75, 0.25, 0.0], [0.0, 1.0, 0.0]]
    )
    # Refined to nothing: the clip keeps its own scores.
    matrix[1] = 0
    np.testing.assert_allclose(refine(scores, matrix, normalize=True)[1], [0, 0, 1])


def test_a_clip_without_any_score_stays_without():
    refined = refine([[0.0, 0.0], [0.5, 0.0]], np.eye(2), normalize=True)
    assert refined.tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_refinement([0.1, 0.9], [0]), r"finite \(N, C\), got \(2,\)"),
        (lambda: confusion_refinement([[np.inf, 0.9]], [0]), "finite"),
        (lambda: confusion_refinement([[0.1, 0.9]], [0, 1]), "1 rows of scores, 2 of truth"),
        (lambda: refine([0.1, 0.9], np.eye(2)), r"\(2,\) do not match a refinement of \(2, 2\)"),
        (lambda: refine([[0.1, 0.9]], np.ones((2, 3))), r"\(1, 2\) do not match .* \(2, 3\)"),
        (lambda: refine([[0.1, -0.5]], np.eye(2), normalize=True), r"least: -0\.5"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_shares_of_the_identity_go_from_all_to_nothing():
    assert SHRINKAGES[0] == 1 and SHRINKAGES[-1] == 0
    assert list(SHRINKAGES) == sorted(set(SHRINKAGES), reverse=True)


def shrunk(matrix, k):
    return k * np.eye(len(matrix)) + (1 - k) * matrix


def slow_shrinkage(table, base, folds):
    """Of the best shares of the identity by held-out measure, the largest."""
    scores, truth, several = base.predict_scores(table), table.targets.dense(), table.multi_label
    found = {}
    for k in SHRINKAGES:
        held_out = np.zeros_like(scores)
        for rows, held in group_folds(table.groups, folds):
            matrix = confusion_refinement(scores[rows], truth[rows])
            held_out[held] = refine(scores[held], shrunk(matrix, k), normalize=not several)
        found[k] = (
            mean_average_precision(held_out, truth).value
            if several
            else accuracy(held_out, truth.argmax(1))
        )
    best = max(found.values())
    return max(k for k in SHRINKAGES if found[k] > best - 1e-9)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_shrinkage_is_the_best_of_five_folds(multi_label):
    base, chosen, others = MeanOfProbabilities(multi_label), [], []
    for seed in range(12):
        table = made(seed=seed, multi_label=multi_label, confused=0.6)
        method = ContextualRefinement(base, multi_label, shrink=True).fit(table)
        assert method.shrinkage == slow_shrinkage(table, base, 5)
        printed = confusion_refinement(base.predict_scores(table), table.targets.dense())
        np.testing.assert_allclose(method.matrix, shrunk(printed, method.shrinkage))
        chosen.append(method.shrinkage)
        others.append(slow_shrinkage(table, base, 6))
    assert len(set(chosen)) > 1 and chosen != others


def test_two_groups_are_enough_to_choose_by_and_one_is_not():
    base = MeanOfProbabilities()
    chosen = []
    for seed in range(6):
        table = made(groups=2, seed=seed, confused=0.6)
        chosen.append(ContextualRefinement(base, shrink=True).fit(table).shrinkage)
        assert chosen[-1] == slow_shrinkage(table, base, 2)
    assert min(chosen) < 1
    assert ContextualRefinement(base, shrink=True).fit(made(groups=1)).shrinkage == 1


@pytest.mark.parametrize("multi_label", [False, True])
def test_without_shrinking_the_matrix_is_as_printed(multi_label):
    table, base = made(multi_label=multi_label), MeanOfProbabilities(multi_label)
    scores = base.predict_scores(table)
    printed = confusion_refinement(scores, table.targets.dense())
    for normalize in (True, False):
        method = ContextualRefinement(base, multi_label, normalize=normalize).fit(table)
        assert method.shrinkage == 0 and np.array_equal(method.matrix, printed)
        expected = refine(scores, printed, normalize=normalize and not multi_label)
        np.testing.assert_allclose(method.predict_scores(table), expected)
    assert fitted_fields(ContextualRefinement) == {"matrix", "shrinkage"}
    assert ContextualRefinement(base).normalize and not ContextualRefinement(base).multi_label

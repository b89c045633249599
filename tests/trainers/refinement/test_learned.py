"""The learned refinement: its cost, its inner cross-validation, and what it falls back to."""

import numpy as np
import pytest
from made_scores import fitted_fields, learnable, made

from trainers.fit.folds import group_folds
from trainers.refinement.late_fusion import MeanOfLogits, MeanOfProbabilities
from trainers.refinement.learned import (
    STRENGTHS,
    LearnedRefinement,
    groups_per_class,
    log_loss_to_beat,
    of_each_class,
    too_few,
)
from trainers.refinement.logit_map import fit_maps, map_table
from trainers.refinement.score_streams import (
    find_temperature,
    log_loss,
    score_table,
    to_probabilities,
)
from trainers.targets import Targets


def temperatures(table, rows):
    """(S,) of the clips of these rows that each system has."""
    found = []
    for name, there in table.present.items():
        known = rows[there[rows]]
        truth = table.targets[known].dense(bool)
        logits = table.features[name][known]
        found.append(find_temperature(logits, truth, multi_label=table.multi_label))
    return np.array(found)


def slow_strength(table, folds):
    """Strength after strength, until the held-out log loss rises: the best one and its loss."""
    inputs = map_table(table, multi_label=table.multi_label)
    pairs = group_folds(table.groups, folds)
    own = [temperatures(table, rows) for rows, _ in pairs]
    paths = [
        fit_maps(inputs, rows, scales, STRENGTHS)
        for (rows, _), scales in zip(pairs, own, strict=True)
    ]
    best = (0.0, np.inf)
    for strength in STRENGTHS:
        loss = sum(
            next(path).loss(inputs, held, scales)
            for path, (_, held), scales in zip(paths, pairs, own, strict=True)
        ) / len(table)
        if loss > best[1]:
            return best
        best = strength, loss
    return best


@pytest.mark.parametrize(("multi_label", "noise"), [(False, 0.7), (False, 1.5), (True, 0.7)])
def test_the_strength_is_the_best_of_six_folds_and_all_clips_are_fitted_with_it(multi_label, noise):
    table = learnable(multi_label=multi_label, noise=noise)
    method = LearnedRefinement(MeanOfLogits(multi_label), multi_label).fit(table)
    assert (method.fallback, method.learned_from) == ("", "")
    strength, loss = slow_strength(table, 6)
    assert method.strength == strength
    assert loss < log_loss_to_beat(method.base, table)
    everyone = np.arange(len(table))
    np.testing.assert_array_equal(method.temperatures, temperatures(table, everyone))
    inputs = map_table(table, multi_label=multi_label)
    path = STRENGTHS[: STRENGTHS.index(strength) + 1]
    *_, last = fit_maps(inputs, everyone, method.temperatures, path)
    for ours, expected in zip(
        (method.weights, method.borrowing, method.bias), last.parts(), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)
    expected = to_probabilities(method.logits(table), multi_label=multi_label)
    np.testing.assert_array_equal(method.predict_scores(table), expected)


def test_strengths_fall_by_about_a_third():
    ratios = np.divide(STRENGTHS[1:], STRENGTHS[:-1])
    assert STRENGTHS[0] == 10 and ((ratios > 0.29) & (ratios < 0.34)).all()


def test_what_a_fit_may_cost():
    table = learnable()
    products = 120 * 2 * 4**2
    whole = LearnedRefinement(MeanOfLogits(), most_products=products).fit(table)
    assert whole.learned_from == "" and whole.strength == slow_strength(table, 6)[0]
    # Below that two folds; down to a third of it by all clips, and then by a share of them.
    for share, clips in ((1 / 3, 120), (0.25, 90), (40.001 / 360, 40)):
        method = LearnedRefinement(MeanOfLogits(), most_products=share * products).fit(table)
        assert method.learned_from == ("" if clips == 120 else f"{clips} of 120 clips")
        part = table if clips == 120 else table.part(of_each_class(table.targets, clips))
        strength, loss = slow_strength(part, 2)
        if method.strength is None:
            assert f"held-out log loss {loss:.3f}," in method.fallback
        else:
            assert method.strength == strength
    none = LearnedRefinement(MeanOfLogits(), most_products=39.9 * products / 360).fit(table)
    assert none.strength is None and none.fallback == (
        "4 classes x 2 systems leave time to learn from 39 of 120 clips, fewer than 10 for each "
        "class"
    )


def test_few_clips_of_many_classes_are_all_learned_from_if_there_is_time():
    table = made(n=30, classes=4, noise=0.5)
    # Time for 30 clips, fewer than ten of each class: but there are no more.
    method = LearnedRefinement(MeanOfLogits(), most_products=10.001 * 2 * 4**2).fit(table)
    assert "leave time" not in method.fallback and method.learned_from == ""


def test_what_does_not_carry_over_is_not_used():
    table = made(n=60, noise=3.0, seed=1)
    random = np.random.default_rng(0)
    noise = Targets.from_classes(random.integers(4, size=60), 4)
    scores = {name: random.normal(size=(60, 4)) for name in table.names}
    table = score_table(scores, noise, groups=table.groups)
    method = LearnedRefinement(MeanOfLogits()).fit(table)
    loss, plain = slow_strength(table, 6)[1], log_loss_to_beat(method.base, table)
    assert loss >= plain and method.strength is None
    assert method.fallback == (
        f"held-out log loss {loss:.3f}, that of the plain mean is {plain:.3f}: "
        "nothing was learned that generalizes"
    )
    np.testing.assert_array_equal(
        method.predict_scores(table), MeanOfLogits().predict_scores(table)
    )


def test_a_fit_starts_anew():
    method = LearnedRefinement(MeanOfLogits(), most_products=120 * 8).fit(learnable())
    assert method.learned_from
    method.fit(made(groups=1))
    assert method.strength is None and method.learned_from == ""
    assert "fewer than two groups" in method.fallback


def slow_of_each_class(targets, most):
    """Of each class as many as of the others, or all that it has; clips under their rarest."""
    dense = targets.dense(bool)
    counts = dense.sum(0)
    kinds = [min(np.flatnonzero(row), key=lambda c: (counts[c], c), default=0) for row in dense]
    sizes = np.bincount(kinds, minlength=dense.shape[1])
    level = max(k for k in range(len(kinds) + 1) if np.minimum(sizes, k).sum() <= most)
    return np.minimum(sizes, level), np.array(kinds)


@pytest.mark.parametrize("most", [1, 7, 20, 33, 59, 60, 80])
def test_classes_share_what_may_be_learned_from(most):
    random = np.random.default_rng(2)
    dense = random.random((60, 5)) < [0.6, 0.3, 0.2, 0.1, 0.03]
    targets = Targets.from_dense(dense, multi_label=True)
    rows = of_each_class(targets, most)
    assert len(rows) == min(most, 60) and (np.diff(rows) > 0).all()
    level, kinds = slow_of_each_class(targets, most)
    taken = np.bincount(kinds[rows], minlength=5)
    assert (taken >= level).all() and (taken <= level + 1).all()
    np.testing.assert_array_equal(rows, of_each_class(targets, most))


def test_which_clips_of_a_class_are_taken_is_left_to_chance():
    rows = of_each_class(Targets.from_classes(np.zeros(100, int), 1), 50)
    assert 15 < (rows < 50).sum() < 35


def test_groups_of_each_class_are_counted():
    targets = Targets.of([[0, 2], [0], [2], [2], []], 4, multi_label=True)
    groups = np.array(["a", "b", "a", "a", "c"])
    assert groups_per_class(targets, groups).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("classes", "groups", "reason"),
    [
        ([0, 0, 1, 1], [0, 0, 0, 0], "fewer than two groups"),
        ([0, 0, 1, 1], [0, 1, 0, 1], ""),
        # Half of the classes in one group are too many, a third is not; class 9 is nowhere.
        ([0, 0, 1, 1], [0, 1, 0, 0], "1 of 2 classes have clips in one group only"),
        ([0, 0, 1, 1, 2, 2], [0, 1, 0, 0, 0, 2], ""),
        ([0, 1, 2, 2], [0, 1, 0, 1], "2 of 3 classes have clips in one group only"),
    ],
)
def test_when_clips_are_too_few(classes, groups, reason):
    found = too_few(Targets.from_classes(classes, 10), np.array(groups))
    assert found.startswith(reason) and bool(found) == bool(reason)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_to_beat_is_the_least_of_all_temperatures(multi_label):
    table = made(multi_label=multi_label)
    base = MeanOfProbabilities(multi_label)
    p, truth = base.predict_scores(table), table.targets.dense(bool)
    logits = np.log(p) - (np.log(1 - p) if multi_label else 0)
    least = min(
        log_loss(logits / t, truth, multi_label=multi_label) for t in np.geomspace(0.05, 20, 4000)
    )
    assert log_loss_to_beat(base, table) == pytest.approx(least, abs=1e-6)


def test_scores_of_nothing_and_of_certainty_have_a_finite_loss():
    truth = Targets.from_dense([[1, 0], [0, 1]], multi_label=True)
    table = score_table({"one": [[900.0, -900], [900, 900]]}, truth)
    assert np.isfinite(log_loss_to_beat(MeanOfProbabilities(True), table))


def test_a_system_without_any_clip_of_a_fold_keeps_its_temperature():
    table = learnable()
    scores = dict(table.features) | {"absent": np.full((120, 4), np.nan)}
    scores["system0"] = np.where(table.present["system0"][:, None], scores["system0"], np.nan)
    table = score_table(scores, table.targets, groups=table.groups)
    method = LearnedRefinement(MeanOfLogits()).fit(table)
    assert method.fallback == "" and method.temperatures[2] == 1


def test_before_a_fit_there_is_nothing():
    method = LearnedRefinement(MeanOfLogits())
    assert (method.strength, method.fallback, method.multi_label) == (None, "", False)
    assert (method.inner_folds, method.most_products) == (6, 5e9)
    # One system of one class.
    arrays = (method.temperatures, method.weights, method.bias, method.borrowing)
    assert [array.tolist() for array in arrays] == [[1], [1], [0], [[[0]]]]
    assert fitted_fields(LearnedRefinement) == {
        *("strength", "fallback", "learned_from", "temperatures", "weights", "borrowing", "bias")
    }

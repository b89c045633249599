"""The choice among refinements: its folds, its bootstrap and its bounds."""

import threading
import time
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from made_scores import made
from threadpoolctl import threadpool_info

from trainers.fit.folds import group_folds
from trainers.metrics.measures import accuracy, mean_average_precision
from trainers.refinement.choose import (
    Choice,
    choose,
    cross_validate,
    default_folds,
    no_choice,
)
from trainers.refinement.confusion import ContextualRefinement
from trainers.refinement.late_fusion import MeanOfLogits, MeanOfProbabilities
from trainers.targets import Targets

METHODS = {
    "none": lambda: MeanOfLogits(calibrate=True),
    "confusion": lambda: ContextualRefinement(MeanOfProbabilities()),
}


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_every_clip_is_scored_by_a_fit_without_its_group(workers):
    table, calls = made(), []
    found = cross_validate(
        METHODS, table, 4, workers=workers, on_fit=lambda done, total: calls.append((done, total))
    )
    assert calls == [(done, 8) for done in range(1, 9)]
    assert list(found) == list(METHODS)
    for name, make in METHODS.items():
        for rows, held in group_folds(table.groups, 4):
            expected = make().fit(table.part(rows)).predict_scores(table.part(held))
            np.testing.assert_array_equal(found[name][held], expected)


class Watched(MeanOfLogits):
    """Notes the thread that it is fitted in, and how many threads its matrix products may use."""

    seen: list[tuple[int, set[int]]] = []

    def fit(self, table):
        blas = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        self.seen.append((threading.get_ident(), set(blas)))
        time.sleep(0.01)
        return super().fit(table)


def test_fits_share_the_threads_that_are_asked_for(monkeypatch):
    monkeypatch.setattr(Watched, "seen", [])
    cross_validate({"one": Watched, "two": Watched}, made(), 5, workers=1)
    assert len(Watched.seen) == 10
    assert len({thread for thread, _ in Watched.seen}) == 1
    assert all(blas == {1} for _, blas in Watched.seen)


def answers(labels, wrong):
    """(N, 3) scores that are right but for these clips."""
    scores = np.eye(3)[labels]
    scores[wrong] = np.eye(3)[(labels[wrong] + 1) % 3]
    return scores


def slow_chance(plain, other, units, measure, seed):
    """Share of 1,000 drawn sets on which the other is not above the plain one."""
    numbers = np.unique(units, return_inverse=True)[1]
    count = numbers.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=1000)
    worse = 0
    for sets in drawn:
        rows = np.repeat(np.arange(len(numbers)), sets[numbers])
        worse += measure(other, rows) - measure(plain, rows) <= 1e-12
    return worse / 1000


@pytest.mark.parametrize(("groups", "by_group"), [(10, True), (9, False)])
def test_groups_are_drawn_where_there_are_ten_and_clips_where_not(groups, by_group):
    labels = np.arange(40) % 3
    names = np.arange(40) % groups
    plain, other = answers(labels, np.arange(8)), answers(labels, np.arange(3, 10))
    choice = choose({"none": plain, "other": other}, Targets.from_classes(labels, 3), names, seed=5)

    def measure(scores, rows):
        return accuracy(scores[rows], labels[rows])

    units = names if by_group else np.arange(40)
    assert choice.chances == {"other": slow_chance(plain, other, units, measure, 5)}
    assert choice.measures == {"none": 32 / 40, "other": 33 / 40}
    assert set(choice.held_out) == {"none", "other"}


def test_several_labels_are_compared_by_map():
    random = np.random.default_rng(0)
    truth = random.random((30, 3)) < 0.4
    truth[:3] = np.eye(3)
    plain, other = truth + random.random((30, 3)), truth + 0.9 * random.random((30, 3))
    targets = Targets.from_dense(truth, multi_label=True)
    choice = choose({"none": plain, "other": other}, targets, np.arange(30))

    def measure(scores, rows):
        value = mean_average_precision(scores[rows], truth[rows]).value
        return value if np.isfinite(value) else 0.0

    assert choice.measures["other"] == mean_average_precision(other, truth).value
    chance = slow_chance(plain, other, np.arange(30), measure, 0)
    assert choice.chances["other"] == pytest.approx(chance, abs=1.1e-3)
    assert "mAP" in choice.reason


def chosen_among(rivals, seed):
    """Three clips of forty more are right than of the plain mean: a chance of about 1 in 20."""
    labels = np.arange(40) % 3
    held_out = {"none": answers(labels, np.arange(8))}
    held_out |= {"better": answers(labels, np.arange(3, 8))}
    held_out |= {f"same{i}": held_out["none"] for i in range(rivals - 1)}
    return choose(held_out, Targets.from_classes(labels, 3), np.arange(40), seed=seed)


def test_a_gain_must_be_beyond_a_twentieth_shared_by_all_candidates():
    alone = [chosen_among(1, seed) for seed in range(12)]
    for choice in alone:
        assert choice.name == ("better" if choice.chances["better"] <= 0.05 else "none")
    assert {choice.name for choice in alone} == {"none", "better"}
    between = [s for s, one in enumerate(alone) if 0.025 < one.chances["better"] <= 0.05]
    assert between and {chosen_among(2, seed).name for seed in between} == {"none"}
    kept = chosen_among(2, between[0])
    assert "beyond noise (best: better, 0.8750)" in kept.reason
    assert "plain mean's accuracy of 0.8000" in kept.reason


def test_a_chance_of_a_twentieth_is_still_enough():
    tried = (chosen_among(1, seed) for seed in range(1000))
    assert next(one for one in tried if one.chances["better"] == 0.05).name == "better"


def test_draws_are_those_of_seed_zero_unless_told_otherwise():
    labels = np.arange(40) % 3
    held_out = {"none": answers(labels, np.arange(8)), "other": answers(labels, np.arange(3, 10))}
    targets = Targets.from_classes(labels, 3)
    default, zero, one = (
        choose(held_out, targets, np.arange(40), **seed).chances
        for seed in ({}, {"seed": 0}, {"seed": 1})
    )
    assert default == zero != one


def test_a_choice_stays_as_it_is_and_is_equal_to_itself_alone():
    choice = no_choice("because")
    with pytest.raises(FrozenInstanceError):
        choice.name = "dasd"
    assert choice != replace(choice)


def test_the_best_of_several_that_help_is_chosen():
    labels = np.arange(60) % 3
    held_out = {
        "good": answers(labels, np.arange(12)),
        "none": answers(labels, np.arange(30)),
        "best": answers(labels, np.arange(6)),
        "fair": answers(labels, np.arange(14)),
    }
    choice = choose(held_out, Targets.from_classes(labels, 3), np.arange(60))
    assert choice.name == "best"
    assert choice.reason == "accuracy 0.9000 by cross-validation, 0.5000 for the plain mean"
    assert set(choice.chances) == {"good", "best", "fair"}


def test_one_that_does_harm_is_not_the_best_and_without_rivals_none_is():
    labels = np.arange(30) % 3
    targets = Targets.from_classes(labels, 3)
    held_out = {"harm": answers(labels, np.arange(9)), "none": answers(labels, np.arange(3))}
    choice = choose(held_out, targets, np.arange(30))
    assert choice.name == "none" and "(no other is above it)" in choice.reason
    assert choice.chances["harm"] > 0.9
    alone = choose({"none": held_out["none"]}, targets, np.arange(30))
    assert (alone.name, alone.chances, alone.measures) == ("none", {}, {"none": 0.9})


def test_folds_leave_one_group_out_up_to_ten():
    assert [default_folds(np.arange(50) % n) for n in (1, 2, 9, 10, 11, 30)] == [
        *(1, 2, 9, 10, 10, 10)
    ]
    assert default_folds(["b", "a", "b"]) == 2


def test_no_choice_has_a_reason_only():
    assert no_choice("because").name == "none"
    choice = no_choice("told", name="dasd")
    assert isinstance(choice, Choice) and (choice.name, choice.reason) == ("dasd", "told")
    assert not choice.measures and not choice.chances and not choice.held_out

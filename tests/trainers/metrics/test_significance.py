"""Paired tests against what is known."""

import numpy as np
import pytest
from scipy.stats import binom

from trainers.metrics.measures import mean_average_precision
from trainers.metrics.significance import Paired, bootstrap_map, mcnemar


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_clips() -> None:
    right = np.array([True] * 50 + [True] * 9 + [False] * 2 + [False] * 10)
    other = np.array([True] * 50 + [False] * 9 + [True] * 2 + [False] * 10)
    assert mcnemar(right, other) == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert mcnemar(other, right) == mcnemar(right, other)
    assert mcnemar(right, right) == 1


def test_the_interval_does_not_depend_on_how_many_draws_are_held_at_once() -> None:
    random = np.random.default_rng(3)
    targets = np.eye(3)[random.integers(0, 3, 60)]
    scores = [targets + random.standard_normal((60, 3)) for _ in range(2)]
    parts = [Paired(*scores, targets, np.arange(60) // 4, np.arange(60))] * 2
    assert len({bootstrap_map(parts, samples=50, chunk=c) for c in (1, 500, 10**6)}) == 1


def test_the_bootstrap_knows_better_from_equal() -> None:
    random = np.random.default_rng(0)
    targets = np.eye(3)[random.integers(0, 3, 150)]
    noise = random.standard_normal((150, 3))
    good, bad = targets * 2 + noise, targets * 0.2 + noise[:, ::-1]
    groups, ids = np.arange(150) // 3, np.arange(150)
    found = bootstrap_map([Paired(good, bad, targets, groups, ids)] * 2, samples=300)
    expected = (
        mean_average_precision(good, targets.astype(int)).value
        - mean_average_precision(bad, targets.astype(int)).value
    )
    assert found.value == pytest.approx(expected)
    assert found.p < 0.02 and 0 < found.low < found.value < found.high
    same = bootstrap_map([Paired(good, good, targets, groups, ids)], samples=100)
    assert same.value == 0 and same.p == 1
    alike = targets * 2 + random.standard_normal((150, 3))
    assert bootstrap_map([Paired(good, alike, targets, groups, ids)], samples=300).p > 0.05


def test_the_bootstrap_draws_persons_where_each_split_tests_one() -> None:
    """Four splits of one group each: better on three, worse on one, is no sure gain."""
    random = np.random.default_rng(0)
    parts = []
    for number in range(4):
        targets = np.eye(3)[random.integers(0, 3, 40)]
        noise = random.standard_normal((40, 3))
        pair = [targets * 2 + noise, targets + noise]
        better, worse = pair if number else reversed(pair)
        ids = np.arange(40) + 40 * number
        parts.append(Paired(better, worse, targets, np.full(40, f"person {number}"), ids))
    found = bootstrap_map(parts, samples=400)
    assert found.low < 0 < found.value < found.high and found.p > 0.05
    alone = bootstrap_map(parts[1:2], samples=400)
    assert alone.low < alone.value < alone.high, "of one group, clips are drawn"


@pytest.mark.parametrize("one_group", [False, True])
def test_testing_the_same_clips_in_every_split_makes_nothing_surer(one_group: bool) -> None:
    random = np.random.default_rng(1)
    targets = np.eye(3)[random.integers(0, 3, 90)]
    noise = random.standard_normal((90, 3))
    ids = np.array([f"clip {number}" for number in range(90)])
    groups = np.full(90, "all") if one_group else ids
    part = Paired(targets * 1.5 + noise, targets + noise[::-1], targets, groups, ids)
    once, thrice = (bootstrap_map([part] * splits, samples=200) for splits in (1, 3))
    for name in ("value", "low", "high", "p"):
        assert getattr(thrice, name) == pytest.approx(getattr(once, name)), name

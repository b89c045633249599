"""The bootstrap against sets of clips written out, and its memory."""

import tracemalloc

import numpy as np
import pytest

from trainers.metrics.bootstrap import (
    resample,
    resampled_accuracy,
    resampled_map,
    resampled_precision,
    units,
)
from trainers.metrics.measures import accuracy, average_precision, mean_average_precision


@pytest.mark.parametrize("seed", range(5))
def test_a_clip_counts_as_often_as_it_was_drawn(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, 40) / 5  # many ties
    relevant = random.random(40) < 0.3
    counts = random.integers(0, 4, (6, 40))
    for row, value in zip(counts, resampled_precision(scores, relevant, counts), strict=True):
        repeated = np.repeat(np.arange(40), row)
        expected = average_precision(scores[repeated], relevant[repeated])
        assert value == pytest.approx(expected, abs=1e-12)
    assert np.isnan(resampled_precision(scores, relevant, 1 * ~relevant[None])).all()
    assert np.isnan(resampled_precision(scores, relevant & False, counts)).all()


def test_measures_of_whole_sets():
    random = np.random.default_rng(0)
    scores, targets = random.random((30, 4)), random.random((30, 4)) < 0.4
    targets[:, 3] = False  # left out
    counts = np.stack([np.ones(30, int), random.integers(0, 3, 30)])
    for measure, plain, truth in (
        (resampled_map, lambda s, t: mean_average_precision(s, t).value, targets),
        (resampled_accuracy, lambda s, t: accuracy(s, t.argmax(1)), np.eye(4)[np.arange(30) % 4]),
    ):
        for row, value in zip(counts, measure(scores, truth, counts), strict=True):
            repeated = np.repeat(np.arange(30), row)
            assert value == pytest.approx(plain(scores[repeated], truth[repeated]), abs=1e-12)


def test_units_are_groups_unless_there_are_too_few():
    clips = [np.array(["k", "l", "m"]), np.array(["n", "k"])]
    one, other = units([np.array(["a", "a", "b"]), np.array(["d", "c"])], clips)
    assert one.tolist() == [0, 0, 1] and other.tolist() == [3, 2]
    one, other = units([np.array(["a"] * 3), np.array(["a"] * 2)], clips)
    assert one.tolist() == [0, 1, 2] and other.tolist() == [3, 0], "of one group: clips"
    assert units([np.array(["a", "b", "b"])], clips[:1], fewest=3)[0].tolist() == [0, 1, 2]


def test_what_several_parts_test_is_one_unit():
    parts = units([np.array(["a", "b", "b"]), np.array(["c", "b", "a"])], [np.arange(3)] * 2)
    assert [part.tolist() for part in parts] == [[0, 1, 1], [2, 1, 0]]
    sizes = resample(parts, lambda counts: counts[0][:, 0] - counts[1][:, 2], samples=50, seed=0)
    assert (sizes == 0).all(), "drawn in both as often"


def means(values):
    return lambda counts: np.stack([counts[0] @ values, counts[0].max(1)], axis=1)


def test_draws_depend_on_the_seed_alone_and_not_on_the_chunk():
    values = np.random.default_rng(0).integers(0, 100, 50)
    parts = units([np.arange(50) // 2], [np.arange(50)])
    whole, small, odd = (
        resample(parts, means(values), samples=101, seed=7, chunk=chunk)
        for chunk in (10**9, 1, 50 * 13)
    )
    np.testing.assert_array_equal(whole, small)
    np.testing.assert_array_equal(whole, odd)
    assert whole.shape == (101, 2)
    other = resample(parts, means(values), samples=101, seed=8)
    assert (other != whole).any()
    # Each set holds as many units as there are, of two clips each.
    sizes = resample(parts, lambda counts: counts[0].sum(1), samples=20, seed=0)
    assert (sizes == 50).all()


def test_memory_does_not_grow_with_the_number_of_sets():
    random = np.random.default_rng(0)
    scores, targets = random.random((2000, 3)), random.random((2000, 3)) < 0.2
    parts = units([np.arange(2000)], [np.arange(2000)])

    def peak(samples: int) -> int:
        tracemalloc.start()
        resample(
            parts,
            lambda counts: resampled_map(scores, targets, counts[0]),
            samples=samples,
            seed=0,
            chunk=40_000,
        )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # In one piece the counts of 400 sets alone are 6.4 MB.
    assert peak(400) < 1.1 * peak(40) < 3e6

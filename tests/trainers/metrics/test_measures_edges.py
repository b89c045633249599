"""The measures against plain loops that follow their definitions, and their boundary cases."""

from fractions import Fraction

import numpy as np
import pytest

from trainers.metrics import measures
from trainers.metrics.accumulators import Confusions, GapAtK, Summary


def slow_average_precision(scores, relevant, positives, n):
    """Sum over the distinct scores of precision times the gain in recall, cut at the n-th place."""
    total = min(n, positives)
    area = found = seen = Fraction(0)
    for value in sorted(set(scores), reverse=True):
        tied = [hit for score, hit in zip(scores, relevant, strict=True) if score == value]
        room = min(Fraction(n) - seen, len(tied))
        if room == 0:
            break
        gained = Fraction(sum(tied), len(tied)) * room
        found, seen = found + gained, seen + room
        area += gained / total * found / seen
    return float(area)


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_at_n_with_ties_follows_its_definition(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(6, size=25).tolist()
    relevant = (random.random(25) < 0.4).astype(int)
    relevant[0] = 1
    for positives in (int(relevant.sum()), 40):
        for n in (1, 2, 3, 7, 12, 24, 25, 26, 60):
            value = measures.average_precision(scores, relevant, positives, n=n)
            expected = slow_average_precision(scores, relevant.tolist(), positives, n)
            assert value == pytest.approx(expected, abs=1e-12), (n, positives)


def slow_perr(scores, targets):
    """Per video: the share of true classes among its best ones, as many as it has labels."""
    shares = []
    for row, truth in zip(scores.tolist(), targets.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda c: (-row[c], c))[: sum(truth)]
        shares.append(sum(truth[c] for c in best) / len(best) if best else 0.0)
    return sum(shares) / len(shares)


def slow_hits(scores, targets, k):
    hits = 0
    for row, truth in zip(scores.tolist(), targets.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        hits += any(truth[c] for c in best)
    return hits / len(scores)


@pytest.mark.parametrize("seed", range(5))
def test_measures_of_single_videos_follow_their_definitions(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(4, size=(30, 6)) / 4
    targets = (random.random((30, 6)) < 0.3).astype(int)
    targets[:3] = 0  # videos without any label
    expected = slow_perr(scores, targets)
    assert measures.precision_at_equal_recall(scores, targets) == pytest.approx(expected)
    for k in (1, 2, 5, 6, 9):
        assert measures.hit_at_k(scores, targets, k) == slow_hits(scores, targets, k)


def test_recall_of_a_class_that_is_only_predicted_counts_where_that_is_asked_for():
    scores, labels = np.eye(4)[[0, 2, 1, 1]], [0, 0, 1, 1]
    matrix = measures.confusion_matrix(scores.argmax(1), labels, 4)
    # Recalls: class 0 one of two, class 1 two of two; class 2 is only predicted, class 3 nowhere.
    assert measures.mean_class_accuracy(scores, labels) == 0.75
    assert measures.mean_recall(matrix) == 0.75
    assert measures.mean_class_accuracy(scores, labels, count_predicted=True) == 0.5
    assert measures.mean_recall(matrix, count_predicted=True) == 0.5


def test_recall_of_a_class_with_one_video():
    assert measures.mean_class_accuracy([[0.9, 0.1], [0.2, 0.8]], [0, 1]) == 1.0


def test_classes_are_named_by_their_index_where_no_names_are_given():
    result = measures.mean_average_precision([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]], [1, 1])
    assert result.left_out == ("0", "2")
    assert result.value == result.per_class[1] == 1.0
    assert np.isnan(result.per_class[[0, 2]]).all()


def test_the_pool_of_gap_is_the_twenty_best_classes_unless_told_otherwise():
    random = np.random.default_rng(0)
    scores, targets = random.random((12, 40)), random.random((12, 40)) < 0.2
    expected = measures.gap_at_k(scores, targets, 20)
    assert measures.gap_at_k(scores, targets, 21) != expected
    assert measures.gap_at_k(scores, targets) == expected
    assert measures.summary(scores, targets, multi_label=True)["gap_at_20"] == expected
    assert GapAtK().k == Summary(40, True).gap.k == 20


def test_summary_names_every_measure():
    random = np.random.default_rng(1)
    scores, labels = random.random((40, 9)), random.integers(9, size=40)
    targets = np.eye(9, dtype=int)[labels]
    assert measures.summary(scores, targets, multi_label=True) == {
        "score": measures.mean_average_precision(scores, targets).value,
        "map": measures.mean_average_precision(scores, targets).value,
        "hit_at_1": measures.hit_at_k(scores, targets, 1),
        "hit_at_5": measures.hit_at_k(scores, targets, 5),
        "gap_at_20": measures.gap_at_k(scores, targets, 20),
        "perr": measures.precision_at_equal_recall(scores, targets),
    }
    assert measures.summary(scores, labels, multi_label=False) == {
        "score": measures.accuracy(scores, labels),
        "accuracy": measures.accuracy(scores, labels),
        "mean_class_accuracy": measures.mean_class_accuracy(scores, labels),
        "hit_at_5": measures.hit_at_k(scores, labels, 5),
        "map": measures.mean_average_precision(scores, labels).value,
    }


def test_confusions_go_on_from_a_matrix_of_one_class():
    counted = Confusions(1, np.array([[3]])).update([[0.5]], [0])
    assert counted.compute().tolist() == [[4]]
    assert Confusions(1).update([[0.5]], [0]).compute().tolist() == [[1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measures.average_precision([0.1, 0.2], [1]), r"\(2,\) and relevant \(1,\)"),
        (lambda: measures.average_precision([[0.1]], [[1]]), r"\(1, 1\) .* must both be \(N,\)"),
        (lambda: measures.average_precision([np.inf], [1]), "NaN or infinity"),
        (lambda: measures.average_precision([0.1], [1], n=0), "n must be at least 1, got 0"),
        (lambda: measures.average_precision([0.1], [0], 0), "at least one positive"),
        (lambda: measures.confusion_matrix([0, 1], [0], 2), r"\(2,\) and labels \(1,\)"),
        (lambda: measures.confusion_matrix([[0]], [[0]], 2), r"\(1, 1\) .* must both be \(N,\)"),
        (lambda: measures.confusion_matrix([-1], [0], 2), r"predicted must lie in 0\.\.1, got -1"),
        (lambda: measures.confusion_matrix([0], [2], 2), r"labels must lie in 0\.\.1, got 2\.\.2"),
        (lambda: measures.as_targets([[0, 1]], 3), r"\(N,\) or \(N, 3\), got \(1, 2\)"),
        (lambda: measures.as_targets([[[0], [1], [0]]], 3), r"got \(1, 3, 1\)"),
        (lambda: measures.as_targets([[[0, 1, 0]]], 1), r"got \(1, 1, 3\)"),
        (lambda: measures.check_multi_label([[0.1, 0.2]], [0, 1]), "1 rows of scores, 2 rows"),
        (lambda: measures.accuracy([0.1, 0.2], [0, 1]), r"must be \(N, C\) .* got \(2,\)"),
        (lambda: measures.accuracy(np.zeros((2, 0)), [0, 1]), r"got \(2, 0\)"),
        (
            lambda: measures.mean_average_precision([[0.1]], [0], classes=["a", "b"]),
            "2 class names",
        ),
    ],
)
def test_refuses_shapes_and_values_that_have_no_meaning(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_error_lists_the_first_rows_that_hold_no_numbers():
    scores = np.zeros((9, 2))
    scores[1:, 1] = np.nan
    with pytest.raises(ValueError, match=r"rows \[1, 2, 3, 4, 5\] hold NaN"):
        measures.accuracy(scores, np.zeros(9, int))

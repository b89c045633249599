"""The measures against scikit-learn and against reference answers of other code."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from trainers.metrics import accumulators as streaming
from trainers.metrics import measures as metrics
from trainers.metrics.score_spill import MEMORY


def drawn(seed, ties, n=60, c=7):
    rng = np.random.default_rng(seed)
    scores = rng.random((n, c))
    targets = rng.random((n, c)) < 0.25
    targets[np.arange(n), rng.integers(c, size=n)] = True
    return (np.round(scores, 1) if ties else scores), targets, rng.integers(c, size=n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_sklearn(seed, ties):
    scores, targets, labels = drawn(seed, ties)
    for index in range(scores.shape[1]):
        ours = metrics.average_precision(scores[:, index], targets[:, index])
        assert ours == pytest.approx(
            sk.average_precision_score(targets[:, index], scores[:, index]), abs=1e-9
        )
    ours = metrics.mean_average_precision(scores, targets)
    assert ours.value == pytest.approx(sk.average_precision_score(targets, scores), abs=1e-9)
    assert ours.left_out == ()
    micro = sk.average_precision_score(targets, scores, average="micro")
    assert metrics.gap_at_k(scores, targets, scores.shape[1]) == pytest.approx(micro, abs=1e-9)
    predicted = scores.argmax(1)
    assert metrics.accuracy(scores, labels) == pytest.approx(sk.accuracy_score(labels, predicted))
    assert metrics.mean_class_accuracy(scores, labels) == pytest.approx(
        sk.balanced_accuracy_score(labels, predicted), abs=1e-9
    )
    np.testing.assert_array_equal(
        metrics.confusion_matrix(predicted, labels, 7),
        sk.confusion_matrix(labels, predicted, labels=range(7)),
    )
    if not ties:
        for k in (1, 2, 5):
            assert metrics.hit_at_k(scores, labels, k) == pytest.approx(
                sk.top_k_accuracy_score(labels, scores, k=k, labels=range(7))
            )


def test_ties_do_not_depend_on_the_order_of_videos():
    scores, targets, _ = drawn(1, ties=True)
    scores = np.round(scores * 2) / 2
    order = np.random.default_rng(0).permutation(len(scores))
    for measure in (
        lambda s, t: metrics.mean_average_precision(s, t).value,
        metrics.gap_at_k,
        metrics.precision_at_equal_recall,
        lambda s, t: metrics.hit_at_k(s, t, 2),
    ):
        assert measure(scores, targets) == pytest.approx(
            measure(scores[order], targets[order]), abs=1e-12
        )
    assert metrics.average_precision([0.5, 0.5], [1, 0]) == 0.5


def batches(n, size):
    return [slice(start, start + size) for start in range(0, n, size)]


@pytest.mark.parametrize("ties", [False, True])
def test_batches_give_the_value_of_the_whole_whatever_their_order(ties):
    scores, targets, labels = drawn(3, ties, n=97)
    for multi_label, truth in ((False, labels), (True, targets)):
        expected = metrics.summary(scores, truth, multi_label=multi_label)
        parts = batches(97, 10)
        one, two = (streaming.Summary(7, multi_label) for _ in range(2))
        for k, part in enumerate(reversed(parts)):
            (one if k % 3 else two).update(scores[part], truth[part])
        assert one.merge(two).compute() == pytest.approx(expected, abs=1e-12)
    parts = [streaming.Confusions(7).update(scores[p], labels[p]) for p in batches(97, 30)]
    whole = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    matrix = metrics.confusion_matrix(scores.argmax(1), labels, 7)
    np.testing.assert_array_equal(whole.compute(), matrix)
    for k in (1, 3):
        kept = streaming.GapAtK(k)
        for part in batches(97, 8):
            kept.update(scores[part], targets[part])
        assert kept.compute() == pytest.approx(metrics.gap_at_k(scores, targets, k), abs=1e-12)
        assert kept.kept.entries == 97 * k


def test_accumulators_that_do_not_add_up_are_refused():
    for empty in (streaming.HitAtK(), streaming.GapAtK(), streaming.Summary(3, True)):
        with pytest.raises(ValueError, match="no videos yet"):
            empty.compute()
    with pytest.raises(ValueError, match="no videos yet"):
        _ = streaming.Confusions(3).accuracy
    with pytest.raises(ValueError, match="k differs: 5 here, 20 there"):
        streaming.GapAtK(5).merge(streaming.GapAtK(20))
    with pytest.raises(ValueError, match="n_classes differs: 3 here, 2 there"):
        streaming.AveragePrecisions(3).update([[0.1, 0.2]], [1])


def test_average_precision_at_n_divides_by_the_positives_that_fit():
    # A list of two entries with ten positives elsewhere: at most five of them count.
    assert metrics.average_precision([0.9, 0.8], [1, 1], 10, n=5) == pytest.approx(0.4)
    # All positives are elsewhere: nothing is found.
    assert metrics.average_precision([], [], 3) == metrics.average_precision([0.5], [0], 3) == 0


def test_average_precision_at_n_with_ties():
    # Three of equal score in two places: two thirds of the two positives are expected there.
    assert metrics.average_precision([0.5, 0.5, 0.5], [1, 0, 1], n=2) == pytest.approx(
        (4 / 3) / 2 * (4 / 3) / 2
    )
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        scores, relevant = np.array([0.9, 0.5, 0.5, 0.1])[order], np.array([0, 1, 0, 1])[order]
        value = metrics.average_precision(scores, relevant, n=2)
        assert value == pytest.approx((0.5 / 2) * (0.5 / 2))


def test_by_hand():
    scores = [[0.9, 0.2, 0.1], [0.8, 0.7, 0.3], [0.05, 0.6, 0.4]]
    labels = [0, 1, 0]
    assert metrics.accuracy(scores, labels) == pytest.approx(1 / 3)
    # Class 0: one of two; class 1: none of one; class 2 does not occur.
    assert metrics.mean_class_accuracy(scores, labels) == pytest.approx(1 / 4)
    assert metrics.hit_at_k(scores, labels, 2) == pytest.approx(2 / 3)
    np.testing.assert_array_equal(
        metrics.confusion_matrix([0, 0, 1], labels, 3), [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    )


def test_classes_without_a_positive_are_left_out_and_named():
    result = metrics.mean_average_precision(
        [[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]], [1, 0], classes=["cat", "dog", "bird"]
    )
    assert result.value == 1.0
    assert result.left_out == ("bird",)
    assert np.isnan(result.per_class[2])


def test_multi_label_summary_leads_with_map():
    scores, targets, labels = drawn(2, ties=False)
    multi = metrics.summary(scores, targets, multi_label=True)
    assert multi["score"] == multi["map"] == metrics.mean_average_precision(scores, targets).value
    single = metrics.summary(scores, labels, multi_label=False)
    assert single["score"] == single["accuracy"] == metrics.accuracy(scores, labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy([[np.nan, 1.0]], [0]), r"rows \[0\] hold NaN"),
        (lambda: metrics.accuracy([[0.1, 1.0]], [2]), r"0\.\.1, got 2\.\.2"),
        (lambda: metrics.accuracy([[0.1, 1.0]], [0.5]), "integer"),
        (lambda: metrics.accuracy([[0.1, 1.0]], [0, 1]), r"must be \(1,\)"),
        (lambda: metrics.accuracy(np.zeros((0, 2)), []), "at least one video"),
        (lambda: metrics.average_precision([0.1], [0]), "at least one positive"),
        (lambda: metrics.hit_at_k([[0.1]], [0], 0), "at least 1, got 0"),
        (lambda: metrics.gap_at_k([[0.1, 0.2]], [[2, 0]]), "0 or 1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_youtube8m_reference_answers(real_data):
    expected = json.loads((real_data / "checks/yt8m_metrics_expected.json").read_text())
    inputs = np.load(real_data / "checks/yt8m_metrics_inputs.npz")
    for size in ("tiny", "small"):
        scores, targets = inputs[f"{size}_scores"], inputs[f"{size}_labels"]
        answers = {
            "hit_at_1": metrics.hit_at_k(scores, targets, 1),
            "perr": metrics.precision_at_equal_recall(scores, targets),
            "gap_at_20": metrics.gap_at_k(scores, targets, 20),
            "gap_at_5": metrics.gap_at_k(scores, targets, 5),
            "gap_at_1": metrics.gap_at_k(scores, targets, 1),
            "gap_all": metrics.gap_at_k(scores, targets, scores.shape[1]),
            "map_full": metrics.mean_average_precision(scores, targets).value,
        }
        for name, value in answers.items():
            assert value == pytest.approx(expected[size][name], abs=1e-9), (size, name)
    hand = expected["hand"]
    for k in (2, 20):
        value = metrics.gap_at_k(hand["scores"], hand["labels"], k)
        assert value == pytest.approx(hand[f"gap_at_{k}"], abs=1e-9)
    assert metrics.hit_at_k(hand["scores"], hand["labels"], 1) == hand["hit_at_1"]
    perr = metrics.precision_at_equal_recall(hand["scores"], hand["labels"])
    assert perr == pytest.approx(hand["perr"], abs=1e-9)
    listed = expected["ap_at_n"]
    for n in (None, 1, 2, 3, 5, 9):
        value = metrics.average_precision(listed["scores"], listed["labels"], n=n)
        assert value == pytest.approx(listed["ap" if n is None else f"ap_at_{n}"], abs=1e-9)
    value = metrics.average_precision(listed["scores"], listed["labels"], 10, n=3)
    assert value == pytest.approx(listed["ap_at_3_total_num_positives_10"], abs=1e-9)


@pytest.mark.parametrize("memory", [1, 10**4, MEMORY])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_youtube8m_reference_answers_streaming(real_data, batch, memory):
    expected = json.loads((real_data / "checks/yt8m_metrics_expected.json").read_text())
    inputs = np.load(real_data / "checks/yt8m_metrics_inputs.npz")
    for size in ("tiny", "small"):
        scores, targets = inputs[f"{size}_scores"], inputs[f"{size}_labels"]
        n_classes = scores.shape[1]
        answers = {
            "hit_at_1": streaming.HitAtK(1),
            "perr": streaming.PrecisionAtEqualRecall(),
            "gap_at_20": streaming.GapAtK(20, memory=memory),
            "streaming_gap_at_top_k": streaming.GapAtK(20, memory=memory),
            "gap_at_5": streaming.GapAtK(5, memory=memory),
            "gap_at_1": streaming.GapAtK(1, memory=memory),
            "gap_all": streaming.GapAtK(n_classes, memory=memory),
            "map_full": streaming.AveragePrecisions(n_classes, memory=memory),
            "map_over_topk_entries": streaming.AveragePrecisions(n_classes, k=20, memory=memory),
        }
        for name, accumulator in answers.items():
            for part in batches(len(scores), batch):
                accumulator.update(scores[part], targets[part])
            value = accumulator.compute()
            value = getattr(value, "value", value)
            assert value == pytest.approx(expected[size][name], abs=1e-9), (size, name)
        counted = answers["map_full"].compute().per_class
        assert np.isfinite(counted).sum() == expected[size]["classes_counted_in_map"]


def test_sklearn_reference_answers(real_data):
    expected = json.loads((real_data / "checks/sklearn_expected.json").read_text())["small"]
    inputs = np.load(real_data / "checks/yt8m_metrics_inputs.npz")
    scores, targets = inputs["small_scores"], inputs["small_labels"]
    macro = metrics.mean_average_precision(scores, targets).value
    assert macro == pytest.approx(expected["map_macro_nonempty"], abs=1e-9)
    micro = metrics.gap_at_k(scores, targets, scores.shape[1])
    assert micro == pytest.approx(expected["map_micro"], abs=1e-9)


def test_mmaction_reference_answers(real_data):
    expected = json.loads((real_data / "checks/mmaction2_accuracy_literals.json").read_text())
    for case in expected["topk"]["cases"]:
        for k, value in zip(case["k"], case["expected"], strict=True):
            assert metrics.hit_at_k(expected["topk"]["scores"], case["labels"], k) == value
    part = expected["mean_class_accuracy"]
    for case in part["cases"]:
        # Theirs also counts, as 0, predicted classes that never occur; sklearn's does not.
        value = metrics.mean_class_accuracy(part["scores"], case["labels"], count_predicted=True)
        assert value == pytest.approx(case["expected"], abs=1e-9)
    part = expected["mean_average_precision"]
    for case in part["cases"]:
        value = metrics.mean_average_precision(part["scores"], case["labels"]).value
        assert value == pytest.approx(case["expected"], abs=1e-9)
    part = expected["confusion_matrix"]
    matrix = metrics.confusion_matrix(part["pred"], part["target"], 3)
    np.testing.assert_array_equal(matrix, part["expected"])
    part = expected["mmit_map"]
    value = metrics.average_precision(part["scores"][0], part["labels"][0])
    assert value == pytest.approx(part["expected"], abs=1e-9)
    part = expected["top_k_classes"]
    matrix = streaming.Confusions(4).update(part["scores"], part["accurate"]["labels"]).compute()
    for index, recall in part["accurate"]["k3"]:
        assert matrix[index, index] / matrix[index].sum() == recall


def test_real_two_stream_scores(real_data):
    expected = json.loads((real_data / "checks/ucf101_split1_twostream_expected.json").read_text())
    inputs = np.load(real_data / "checks/ucf101_split1_twostream_scores_orri17.npz")
    for stream in ("spatial", "motion"):
        scores, labels = inputs[f"{stream}_scores"], inputs["labels"]
        answer = expected["orri17"][stream]
        assert metrics.accuracy(scores, labels) == pytest.approx(answer["top1"], abs=1e-9)
        assert metrics.hit_at_k(scores, labels, 5) == pytest.approx(answer["top5"], abs=1e-9)
        assert metrics.mean_class_accuracy(scores, labels) == pytest.approx(
            answer["mean_class_acc"], abs=1e-9
        )
        value = metrics.mean_average_precision(scores, labels).value
        assert value == pytest.approx(answer["macro_mAP"], abs=1e-9)

"""Late fusion: the lattice, scales and weights against plain loops, and the defaults."""

from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest
from made_scores import fitted_fields, made

from trainers.metrics.measures import accuracy, gap_at_k
from trainers.refinement.late_fusion import (
    GapWeighted,
    MeanOfLogits,
    MeanOfProbabilities,
    TemperaturePerStream,
    WeightedMean,
    lattice,
    mean_of_probabilities,
    stream_scales,
    weighted_logits,
)
from trainers.refinement.score_streams import (
    find_temperature,
    log_loss,
    score_table,
    stacked,
    to_probabilities,
)
from trainers.targets import Targets


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        *((1, 20), (2, 20), (3, 20), (4, 10), (5, 6), (6, 5), (7, 4), (8, 3), (9, 3), (10, 3)),
        *((11, 3), (12, 2), (24, 2), (25, 1), (30, 1)),
    ],
)
def test_the_lattice_is_the_finest_of_at_most_300_points(size, steps):
    points = lattice(size)
    assert len(points) == 1 + comb(steps + size - 1, size - 1) and len(points) <= 301
    scaled = np.array(points[1:]) * steps
    np.testing.assert_allclose(scaled.sum(1), steps)
    assert scaled.min() > -1e-9
    np.testing.assert_allclose(scaled, np.round(scaled), atol=1e-9)
    assert len({tuple(point) for point in np.round(scaled).astype(int).tolist()}) == len(scaled)
    far = [np.square(point - 1 / size).sum() for point in points]
    assert far[0] == 0 and (np.diff(far) > -1e-8).all()


def test_weights_of_absent_systems_are_made_up_for():
    logits = np.random.default_rng(0).normal(size=(3, 8, 2))
    present = np.array(list(product([True, False], repeat=3))[:7] + [(True, True, True)]).T
    for weights in (np.array([0.2, 0.5, 0.3]), np.array([0.0, 2.0, 1.0]), np.array([0.0, 0, 3])):
        joined = weighted_logits(logits, present, weights)
        for n in range(8):
            there = np.flatnonzero(present[:, n])
            used = weights[there] if weights[there].sum() > 0 else np.ones(len(there))
            expected = used / used.sum() @ logits[there, n] * weights.sum()
            np.testing.assert_allclose(joined[n], expected)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_mean_of_probabilities_by_weights(multi_label):
    table = made(n=30, systems=3, multi_label=multi_label)
    logits, present = stacked(table)
    for weights in (None, np.array([1.0, 3, 0]), np.array([5.0, 0, 0])):
        found = mean_of_probabilities(table, weights, multi_label=multi_label)
        for n in range(30):
            there = np.flatnonzero(present[:, n])
            used = np.ones(len(there)) if weights is None else weights[there]
            used = used if used.sum() > 0 else np.ones(len(there))
            each = to_probabilities(logits[there, n], multi_label=multi_label)
            np.testing.assert_allclose(found[n], used / used.sum() @ each)


def test_scales_are_root_mean_squares_about_the_mean_of_a_clip():
    logits = np.array([[[1.0, 3.0], [0, 0]], [[5.0, 5.0], [2, 2]], [[9.0, 3.0], [1, 3]]])
    present = np.array([[True, False], [True, True], [True, True]])
    np.testing.assert_allclose(stream_scales(logits, present), [1, 1, np.sqrt(5)])
    assert stream_scales(logits[:1, 1:], present[:1, 1:]).tolist() == [1]


@pytest.mark.parametrize("multi_label", [False, True])
def test_calibration_is_off_unless_asked_for(multi_label):
    table = made(multi_label=multi_label)
    mean = weighted_logits(*stacked(table), np.array([0.5, 0.5]))
    plain = MeanOfLogits(multi_label).fit(table)
    assert plain.temperature == 1
    np.testing.assert_allclose(
        plain.predict_scores(table), to_probabilities(mean, multi_label=multi_label)
    )
    fitted = MeanOfLogits(multi_label, calibrate=True).fit(table)
    best = find_temperature(mean, table.targets.dense(bool), multi_label=multi_label)
    assert fitted.temperature == best != 1
    np.testing.assert_allclose(
        fitted.predict_scores(table), to_probabilities(mean / best, multi_label=multi_label)
    )


@pytest.mark.parametrize("multi_label", [False, True])
def test_temperatures_of_streams_are_where_no_other_weights_are_better(multi_label):
    table = made(n=50, systems=3, multi_label=multi_label, noise=1.0)
    logits, present = stacked(table)
    method = TemperaturePerStream(multi_label).fit(table)
    np.testing.assert_allclose(method.temperatures, method.scales / method.weights)
    truth = table.targets.dense(bool)

    def loss(weights):
        even = logits / method.scales[:, None, None]
        return log_loss(weighted_logits(even, present, weights), truth, multi_label=multi_label)

    best = loss(method.weights)
    assert best <= loss(np.full(3, 1 / 3))
    for change in np.vstack([np.eye(3), -np.eye(3)]):
        assert loss(method.weights + 0.02 * change) > best
    # All weights times a factor, and from where the optimizer starts: it is the only minimum.
    assert min(loss(method.weights * 0.95), loss(method.weights * 1.05)) > best


def test_a_stream_that_does_harm_gets_no_weight_but_a_finite_temperature():
    table = made(n=200, noise=0.5)
    harm = {**table.features, "harm": -table.features["system1"]}
    table = replace(table, features=harm, present={**table.present, "harm": np.ones(200, bool)})
    method = TemperaturePerStream().fit(table)
    assert method.weights[2] == 1e-6 and np.isfinite(method.temperatures).all()


def test_gap_weights_count_the_clips_that_a_system_has():
    table = made(n=60, classes=25, systems=3, noise=2.0)
    truth, gaps = table.targets.dense(bool), []
    for name, there in table.present.items():
        gaps.append(gap_at_k(to_probabilities(table.features[name][there]), truth[there], 20))
    method = GapWeighted().fit(table)
    assert method.k == 20
    np.testing.assert_allclose(method.weights, np.array(gaps) / sum(gaps))
    np.testing.assert_allclose(
        method.predict_scores(table), mean_of_probabilities(table, method.weights)
    )


def test_gap_weights_of_systems_without_a_clip_or_a_label():
    truth = Targets.from_dense([[1, 0], [0, 0], [0, 0]], multi_label=True)
    scores = {
        "good": [[2.0, -1], [0, 0], [0, 0]],
        "no label": [[np.nan] * 2, [1, 0], [0, 1]],
        "nothing": np.full((3, 2), np.nan),
    }
    assert GapWeighted(True).fit(score_table(scores, truth)).weights.tolist() == [1, 0, 0]
    nowhere = Targets.from_dense(np.zeros((3, 2)), multi_label=True)
    np.testing.assert_allclose(GapWeighted(True).fit(score_table(scores, nowhere)).weights, 1 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_the_weighting_is_the_first_of_the_best(seed):
    table = made(n=40, systems=3, noise=2.0, seed=seed)
    logits, present = stacked(table)
    even = logits / stream_scales(logits, present)[:, None, None]
    labels = table.targets.classes()
    right = [accuracy(weighted_logits(even, present, w), labels) for w in lattice(3)]
    best = lattice(3)[int(np.argmax(right))]
    method = WeightedMean().fit(table)
    joined = weighted_logits(even, present, best)
    temperature = find_temperature(joined, table.targets.dense(bool))
    np.testing.assert_allclose(method.weights * temperature, best, atol=1e-12)
    np.testing.assert_allclose(
        method.predict_scores(table), to_probabilities(joined / temperature), atol=1e-12
    )


def test_methods_are_of_single_label_clips_unless_told_otherwise():
    own = {
        MeanOfLogits: {"temperature"},
        MeanOfProbabilities: set(),
        TemperaturePerStream: {"weights", "scales"},
        GapWeighted: {"weights"},
        WeightedMean: {"weights", "scales"},
    }
    for make, found in own.items():
        assert fitted_fields(make) == found
        assert all(np.array_equal(getattr(make(), name), [1]) for name in found - {"temperature"})
        assert not make().multi_label
        with pytest.raises(ValueError, match="single-label, its targets are multi-label"):
            make().fit(made(multi_label=True))

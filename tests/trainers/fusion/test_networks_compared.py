"""NN-EF, NN-LF, the fusion network as an estimator, and RDNN."""

import warnings

import numpy as np
import pytest
from made_clips import accuracy, make, split

from trainers.fusion import rdnn
from trainers.fusion.method import LateFusion
from trainers.fusion.network import FusionSettings
from trainers.fusion.nn import EarlyFusionNetwork, FusionMethod
from trainers.fusion.rdnn import EPSILON, RDNN, RDNNSettings, relation
from trainers.fusion.training import fit_fusion

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = FusionSettings(hidden=16, max_epochs=60, patience=20, lambda1=1e-3)
RELATED = RDNNSettings(hidden=12, lambda1=1e-3, lambda2=1e-2, lambda3=1e-2, rounds=4)


@pytest.mark.parametrize("make_method", [FusionMethod, EarlyFusionNetwork])
def test_networks_know_what_no_single_stream_does(make_method: type) -> None:
    train, test = split(make(200, absent=0.1, noise=0.3))
    fused = make_method([SMALL]).fit(train)
    scores = fused.predict_scores(test)
    np.testing.assert_allclose(scores.sum(1), 1)
    assert accuracy(scores, test) > 0.8
    assert 1 <= fused.chosen["epochs"] <= 60
    single = make_method([SMALL], streams=["a"]).fit(train)
    assert accuracy(single.predict_scores(test), test) < 0.7


def test_the_fusion_method_with_validation_clips_is_the_fusion_network() -> None:
    train, test = split(make(120, absent=0.2))
    method = FusionMethod([SMALL], validation=test).fit(train)
    expected = fit_fusion(train, SMALL, seed=0, validation=test).scores(test.features, test.present)
    np.testing.assert_allclose(method.predict_scores(test), expected, atol=1e-6)


def test_the_grid_is_searched_by_held_out_clips() -> None:
    train, test = split(make(160, noise=0.3))
    useless = FusionSettings(hidden=16, max_epochs=60, lambda1=1.0)
    method = EarlyFusionNetwork([useless, SMALL]).fit(train)
    assert method.chosen["lambda1"] == SMALL.lambda1
    assert accuracy(method.predict_scores(test), test) > 0.8


def test_late_fusion_of_networks_takes_part_where_a_stream_is_absent() -> None:
    train, test = split(make(160, absent=0.3, noise=0.3))
    late = LateFusion(lambda name: EarlyFusionNetwork([SMALL], streams=[name])).fit(train)
    scores = late.predict_scores(test)
    lacking = ~test.present["b"]
    alone = late.single["a"].predict_scores(test)
    np.testing.assert_allclose(scores[lacking], alone[lacking])
    assert accuracy(scores, test) > accuracy(alone, test)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_objective_of_rdnn_falls_at_every_step(multi_label: bool) -> None:
    made = make(80, absent=0.2, multi_label=multi_label)
    method = RDNN([RELATED]).fit(made)
    history = np.array(method.history)
    assert len(history) > 4 * RELATED.rounds
    # A step of the relations repeats the value once the weights rest.
    assert (np.diff(history) <= 1e-12).all() and history[-1] < 0.7 * history[0]


def test_relation_matrices_are_symmetric_positive_and_of_trace_one() -> None:
    method = RDNN([RELATED]).fit(make(80))
    for matrix, size in ((method.features_relation, 2), (method.classes_relation, 4)):
        assert matrix.shape == (size, size)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > 0
        assert np.trace(matrix) == pytest.approx(1, abs=1e-12)


def test_the_closed_form_is_the_best_relation() -> None:
    random = np.random.default_rng(0)
    columns = random.standard_normal((30, 3)) * [1, 3, 0.01]
    gram = columns.T @ columns

    def penalty(psi: np.ndarray) -> float:
        inverse = np.linalg.inv(psi)
        return float(np.trace(gram @ inverse) + EPSILON * np.trace(inverse))

    best = penalty(relation(gram).matrix)
    roots = np.sqrt(np.linalg.eigvalsh(gram + EPSILON * np.eye(3)))
    assert best == pytest.approx(roots.sum() ** 2), "the squared trace norm"
    for _ in range(200):
        other = random.standard_normal((3, 3))
        other = other @ other.T + 1e-3 * np.eye(3)
        assert penalty(other / np.trace(other)) >= best - 1e-9


def test_the_inverse_relation_is_taken_once_per_turn(monkeypatch) -> None:
    columns = np.random.default_rng(0).standard_normal((30, 5)) * [1, 3, 0.01, 1, 2]
    found = relation(columns.T @ columns)
    np.testing.assert_allclose(found.inverse, np.linalg.inv(found.matrix), rtol=1e-9)
    calls = []
    monkeypatch.setattr(rdnn, "relation", lambda gram: calls.append(1) or relation(gram))
    monkeypatch.setattr(np.linalg, "inv", None)
    method = RDNN([RELATED]).fit(make(80))
    # Of features and of classes, at the start and after each round; never in an evaluation.
    assert len(calls) == 2 * (1 + RELATED.rounds) < len(method.history)


def test_a_stream_that_one_group_alone_has_leaves_scores_finite() -> None:
    """The fold that holds this group out trains without the stream, and scores clips with it."""
    made = make(80)
    made.present["b"][:] = made.groups == made.groups[0]
    made.present["a"][:] = True
    for method in (RDNN([RELATED, RELATED]), EarlyFusionNetwork([SMALL, SMALL])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = method.fit(made).predict_scores(made)
        assert np.isfinite(scores).all() and np.isfinite(method.chosen["cross_validated"])


def test_rdnn_learns() -> None:
    train, test = split(make(160, absent=0.1, noise=0.3))
    method = RDNN([RELATED, RDNNSettings(hidden=12, lambda1=10.0)]).fit(train)
    scores = method.predict_scores(test)
    np.testing.assert_allclose(scores.sum(1), 1)
    assert accuracy(scores, test) > 0.8 and method.chosen["lambda1"] == RELATED.lambda1

"""Semantic diffusion against plain loops of its definition, and its choice of steps."""

from itertools import islice

import numpy as np
import pytest
from made_scores import fitted_fields, made

from trainers.fit.folds import group_folds
from trainers.metrics.measures import accuracy, mean_average_precision
from trainers.refinement import diffusion as module
from trainers.refinement.diffusion import (
    STEPS,
    SemanticDiffusion,
    class_graph,
    diffusion,
    normalized_laplacian,
)
from trainers.refinement.late_fusion import MeanOfProbabilities
from trainers.refinement.score_streams import score_table
from trainers.targets import Targets


def slow_graph(columns, neighbors):
    """Positive correlations of columns, of each the strongest that either end keeps."""
    count = columns.shape[1]
    graph = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            if i != j and np.ptp(columns[:, i]) > 0 and np.ptp(columns[:, j]) > 0:
                graph[i, j] = max(np.corrcoef(columns[:, i], columns[:, j])[0, 1], 0)
    keeps = [set(np.argsort(-row)[:neighbors].tolist()) for row in graph]
    for i in range(count):
        for j in range(count):
            if i not in keeps[j] and j not in keeps[i]:
                graph[i, j] = 0
    return graph


@pytest.mark.parametrize(("classes", "neighbors"), [(14, 10), (11, 10), (10, 10), (9, 3), (5, 1)])
def test_the_graph_holds_the_strongest_correlations(classes, neighbors):
    random = np.random.default_rng(classes)
    scores = random.dirichlet(np.ones(classes), size=40)
    scores[:, 2] = 0.5  # a class of which nothing is known
    targets = random.random((40, classes)) < 0.3
    default = {} if neighbors == 10 else {"neighbors": neighbors}
    for several, columns in ((False, scores), (True, targets.astype(float))):
        found = class_graph(scores, targets, multi_label=several, **default)
        np.testing.assert_allclose(found, slow_graph(columns, neighbors), atol=1e-12)


def test_the_laplacian_by_hand():
    graph = np.array([[0, 2.0, 0, 0], [2, 0, 6, 0], [0, 6, 0, 0], [0, 0, 0, 0]])
    a, b = 2 / np.sqrt(2 * 8), 6 / np.sqrt(8 * 6)
    expected = [[1, -a, 0, 0], [-a, 1, -b, 0], [0, -b, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(normalized_laplacian(graph), expected, atol=1e-12)


def slow_diffusion(scores, graph, steps, alpha, beta):
    """Scores after each step, pair by pair; the last class has no edges."""
    count, scores, graph = len(graph), scores.copy(), graph.copy()
    yield scores.copy()
    for _ in range(steps):
        degrees, before = graph.sum(1), scores.copy()
        for i in range(count):
            for j in range(count):
                if graph[i, j] > 0:
                    across = before[:, j] / np.sqrt(degrees[i] * degrees[j])
                    scores[:, i] -= alpha * graph[i, j] * (before[:, i] / degrees[i] - across)
        root = np.sqrt(np.where(degrees > 0, degrees, 1))
        for i in range(count):
            for j in range(count):
                apart = ((scores[:, i] / root[i] - scores[:, j] / root[j]) ** 2).mean()
                if graph[i, j] > 0:
                    graph[i, j] = max(graph[i, j] - beta / 2 * apart, 0)
        yield scores.copy()


@pytest.mark.parametrize("beta", [0.0, 0.5, 30.0])
def test_steps_go_down_the_gradients(beta):
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(5), size=20)
    graph = np.triu(random.random((5, 5)), 1)
    graph[:, 4] = graph[0, 1] = 0
    graph = graph + graph.T
    given = graph.copy()
    expected = slow_diffusion(scores, graph, 5, 0.3, beta)
    with np.errstate(all="raise"):  # nothing is divided by the degree of a class without edges
        for operator in islice(diffusion(scores, graph, alpha=0.3, beta=beta), 6):
            np.testing.assert_allclose(scores @ operator, next(expected), atol=1e-10)
    assert np.array_equal(graph, given)


def test_steps_double():
    assert list(STEPS) == [0, *(2**i for i in range(6))]


def slow_choice(table, base, folds, **settings):
    """Number of steps, fewest of the best, and the operator of all clips for it."""
    scores, several = base.predict_scores(table), table.multi_label
    truth = table.targets.dense(bool)

    def operators(rows):
        graph = class_graph(scores[rows], truth[rows], multi_label=several, neighbors=10)
        path = list(islice(diffusion(scores[rows], graph, alpha=0.1, beta=0.1), 33))
        return {steps: path[steps] for steps in STEPS}

    held_out = {steps: np.zeros_like(scores) for steps in STEPS}
    for rows, held in group_folds(table.groups, folds):
        for steps, operator in operators(rows).items():
            held_out[steps][held] = scored(scores[held] @ operator, several)
    found = {
        steps: mean_average_precision(values, truth).value
        if several
        else accuracy(values, truth.argmax(1))
        for steps, values in held_out.items()
    }
    best = max(found.values())
    steps = min(n for n in STEPS if found[n] > best - 1e-9)
    return steps, operators(np.arange(len(table)))[steps]


def scored(diffused, several):
    if several:
        return np.clip(diffused, 0, 1)
    diffused = np.clip(diffused, 0, None)
    return diffused / diffused.sum(1, keepdims=True)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_number_of_steps_is_the_best_of_five_folds(multi_label):
    base, chosen, others = MeanOfProbabilities(multi_label), [], []
    for seed in range(8):
        table = made(seed=seed, classes=12, n=70, multi_label=multi_label, noise=2.5)
        method = SemanticDiffusion(base, multi_label).fit(table)
        steps, operator = slow_choice(table, base, 5)
        assert method.steps == steps
        np.testing.assert_allclose(method.operator, operator)
        expected = scored(base.predict_scores(table) @ operator, multi_label)
        np.testing.assert_allclose(method.predict_scores(table), expected)
        chosen.append(steps)
        others.append(slow_choice(table, base, 6)[0])
    assert len(set(chosen)) > 1 and chosen != others


def test_classes_that_come_together_take_all_the_steps_there_are():
    random = np.random.default_rng(0)
    truth = np.repeat(random.random((80, 4)) < 0.4, 2, axis=1)
    scores = {"noisy": np.where(truth, 1.0, -1.0) + 2.5 * random.normal(size=truth.shape)}
    table = score_table(scores, Targets.from_dense(truth, multi_label=True))
    base = MeanOfProbabilities(multi_label=True)
    assert SemanticDiffusion(base, multi_label=True, alpha=0.02).fit(table).steps == 32
    assert 0 < SemanticDiffusion(base, multi_label=True).fit(table).steps < 32


def test_what_fit_sets_cannot_be_passed():
    assert SemanticDiffusion(MeanOfProbabilities()).steps == 0
    assert fitted_fields(SemanticDiffusion) == {"steps", "operator"}


def test_one_group_is_nothing_to_choose_by_and_two_are():
    base = MeanOfProbabilities()
    assert SemanticDiffusion(base).fit(made(groups=1, classes=12, noise=2.5)).steps == 0
    tables = [made(groups=2, classes=12, n=70, noise=2.5, seed=seed) for seed in range(6)]
    chosen = [SemanticDiffusion(base).fit(table).steps for table in tables]
    assert chosen == [slow_choice(table, base, 2)[0] for table in tables] and any(chosen)


def test_scores_that_leave_the_range_are_clipped():
    method = SemanticDiffusion(MeanOfProbabilities(True), multi_label=True)
    table = made(multi_label=True)
    method.operator = np.array([[3.0, -1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    found = method.predict_scores(table)
    assert found[:, 0].max() == 1 and (found[:, 1] == 0).all()
    plain = method.base.predict_scores(table)
    np.testing.assert_allclose(found[:, 2:], plain[:, 2:])


def test_with_too_many_classes_scores_stay_as_they_are(monkeypatch):
    assert module.MOST_CLASSES == 500
    tables = [made(classes=12, n=70, noise=2.5, seed=seed) for seed in range(8)]
    base = MeanOfProbabilities()
    for most, moved in ((12, True), (11, False)):
        monkeypatch.setattr(module, "MOST_CLASSES", most)
        methods = [SemanticDiffusion(base).fit(table) for table in tables]
        assert any(method.steps for method in methods) == moved
        still = [np.array_equal(method.operator, np.eye(12)) for method in methods]
        assert all(still) != moved

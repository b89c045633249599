"""Late fusion and refinement of systems' scores: known answers, absences, nothing leaking."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from actors.errors import UserError
from trainers.fit.folds import group_folds
from trainers.metrics.calibration import reliability
from trainers.metrics.measures import accuracy, gap_at_k
from trainers.refinement import logit_map
from trainers.refinement.choose import choose, cross_validate
from trainers.refinement.confusion import ContextualRefinement, confusion_refinement, refine
from trainers.refinement.diffusion import SemanticDiffusion, class_graph, diffusion, energy
from trainers.refinement.fitted import KEY, METHODS, FittedRefinement, contextual, make_method
from trainers.refinement.late_fusion import (
    GapWeighted,
    MeanOfLogits,
    MeanOfProbabilities,
    TemperaturePerStream,
    WeightedMean,
    lattice,
    weighted_logits,
)
from trainers.refinement.learned import LearnedRefinement, of_each_class
from trainers.refinement.logit_map import INPUTS, LogitMap, map_batches, objective
from trainers.refinement.score_streams import (
    find_temperature,
    log_loss,
    score_table,
    stacked,
    to_logits,
    to_probabilities,
)
from trainers.table import Table
from trainers.targets import Targets

FUSIONS = (
    *(MeanOfLogits, MeanOfProbabilities, TemperaturePerStream, GapWeighted, WeightedMean),
    lambda multi_label: MeanOfLogits(multi_label, calibrate=True),
)


def table(streams, truth=None, groups=None):
    """Scores (NaN where absent) with (N,) labels, or (N, C) targets of several labels."""
    targets = None
    if truth is not None:
        classes = np.shape(next(iter(streams.values())))[1]
        targets = (
            Targets.from_classes(truth, classes)
            if np.ndim(truth) == 1
            else Targets.from_dense(truth, multi_label=True)
        )
    return score_table(streams, targets, groups=groups)


def every_method(multi_label=False):
    yield from (make(multi_label) for make in FUSIONS)
    for name in METHODS:
        yield make_method(name, given="logits", multi_label=multi_label)


def drawn(n=240, classes=6, groups=8, seed=0, noise=1.5):
    """Two streams' logits that know the class, labels and groups."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    truth = 2.0 * np.eye(classes)[labels]
    streams = {name: truth + noise * random.normal(size=(n, classes)) for name in ("one", "two")}
    return streams, labels, np.array([f"g{k % groups}" for k in range(n)])


def mixed_up(n=600, seed=0):
    """Only the systems' scores of classes 2 and 3 separate classes 0 and 1."""
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=n)
    logits = 2.0 * np.eye(4)[labels] + random.normal(size=(n, 4))
    either = labels < 2
    logits[either, 0] = logits[either, 1] = 2.0
    logits[either, 2 + labels[either]] += 1.5
    return {"one": logits, "two": logits + random.normal(size=(n, 4))}, labels


def test_means_by_hand():
    streams = {"a": [[1.0, 3.0]], "b": [[2.0, 0.0]]}
    expected = np.exp([1.5, 1.5]) / np.exp([1.5, 1.5]).sum()
    np.testing.assert_allclose(MeanOfLogits().predict_scores(table(streams)), [expected])
    halves = (to_probabilities([[1.0, 3.0]]) + to_probabilities([[2.0, 0.0]])) / 2
    np.testing.assert_allclose(MeanOfProbabilities().predict_scores(table(streams)), halves)


def test_a_stream_that_a_clip_lacks_is_left_out():
    streams = {"a": [[1.0, 3.0], [1.0, 3.0]], "b": [[2.0, 0.0], [np.nan, np.nan]]}
    for method in (MeanOfLogits(), MeanOfProbabilities()):
        np.testing.assert_allclose(
            method.predict_scores(table(streams))[1], to_probabilities([1.0, 3.0]), rtol=1e-12
        )
    # The weights that are there are scaled up to the sum of all; without any, they are equal.
    logits = stacked(table(streams))
    joined = weighted_logits(*logits, np.array([0.5, 1.5]))
    np.testing.assert_allclose(joined, [[3.5, 1.5], [2.0, 6.0]])
    np.testing.assert_allclose(weighted_logits(*logits, np.array([0.0, 2.0]))[1], [2.0, 6.0])


@pytest.mark.parametrize("multi_label", [False, True])
def test_every_method_scores_clip_by_clip_and_copes_with_absence(multi_label):
    streams, labels, groups = drawn()
    streams["two"][::5] = np.nan
    truth = np.eye(6)[labels] if multi_label else labels
    for method in every_method(multi_label):
        scores = method.fit(table(streams, truth, groups)).predict_scores(table(streams))
        assert scores.shape == (240, 6) and ((scores >= 0) & (scores <= 1 + 1e-12)).all()
        if not multi_label:
            np.testing.assert_allclose(scores.sum(1), 1)
            assert accuracy(scores, labels) > 0.6  # chance: 0.17
        alone = {name: values[5:6] for name, values in streams.items()}
        np.testing.assert_allclose(method.predict_scores(table(alone))[0], scores[5], atol=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_and_logits_are_each_others_inverse(multi_label):
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=9)
    back = to_probabilities(to_logits(p, multi_label=multi_label), multi_label=multi_label)
    np.testing.assert_allclose(back, p, atol=1e-6)


def test_temperatures_are_found():
    random = np.random.default_rng(1)
    logits = 2 * random.normal(size=(4000, 5))
    cumulated = to_probabilities(logits).cumsum(1)
    labels = (random.random((4000, 1)) < cumulated).argmax(1)
    targets = np.eye(5, dtype=bool)[labels]
    assert find_temperature(7 * logits, targets) == pytest.approx(7, rel=0.05)
    # Two halves of the truth: together at temperature 1/2 each of what they are multiplied by.
    method = TemperaturePerStream().fit(table({"a": 4 * logits, "b": 10 * logits}, labels))
    total = (1 / method.temperatures) @ [4, 10]
    assert total == pytest.approx(1, rel=0.05)


def test_stream_temperatures_with_absences_are_a_minimum():
    streams, labels, _ = drawn(40)
    streams["two"][3:9] = np.nan
    streams["one"] *= 10
    method = TemperaturePerStream().fit(table(streams, labels))
    targets = np.eye(6, dtype=bool)[labels]
    best, weights = np.log(method.predict_scores(table(streams))[targets]).mean(), method.weights
    for change in np.eye(2) * 1e-2:
        for sign in (1, -1):
            method.weights = weights + sign * change
            assert np.log(method.predict_scores(table(streams))[targets]).mean() < best


def test_gap_weights_by_hand():
    streams, labels, _ = drawn(50)
    streams["two"] = np.random.default_rng(3).normal(size=(50, 6))
    method = GapWeighted().fit(table(streams, labels))
    gaps = [gap_at_k(to_probabilities(streams[n]), np.eye(6)[labels], 20) for n in streams]
    np.testing.assert_allclose(method.weights, np.array(gaps) / sum(gaps))
    assert method.weights[0] > method.weights[1]


def test_weights_by_cross_validation_leave_a_useless_stream_out():
    streams, labels, _ = drawn(300, noise=0.3)
    streams["two"] = 5 * np.random.default_rng(3).normal(size=(300, 6))
    method = WeightedMean().fit(table(streams, labels))
    assert method.weights[0] > 2 * method.weights[1]
    assert accuracy(method.predict_scores(table(streams)), labels) == 1.0


def test_the_lattice_of_weights():
    for size in (1, 2, 3, 5, 9):
        points = lattice(size)
        np.testing.assert_allclose(points[0], 1 / size)
        np.testing.assert_allclose([point.sum() for point in points], 1)
        assert all((point >= -1e-12).all() for point in points) and len(points) <= 302
        # Every system by itself is among them.
        assert sum(np.isclose(point.max(), 1) for point in points) == size + (size == 1)


def test_folds_are_whole_groups_and_do_not_depend_on_the_order():
    groups = np.array(list("aaabbccddddde"))
    parts = group_folds(groups, 3)
    assert all(sorted([*rows, *held]) == list(range(13)) for rows, held in parts)
    folds = [held for _, held in parts]
    assert sorted(np.concatenate(folds)) == list(range(13))
    assert all(len(set(groups[fold]) & set(groups[np.setdiff1d(range(13), fold)])) == 0
               for fold in folds)  # fmt: skip
    order = np.random.default_rng(0).permutation(13)
    again = [held for _, held in group_folds(groups[order], 3)]
    assert [set(groups[f]) for f in folds] == [set(groups[order][f]) for f in again]
    with pytest.raises(UserError, match="at least 2 groups.*'a'"):
        group_folds(np.array(["a", "a"]), 3)
    with pytest.raises(ValueError, match="two folds, not 1"):
        group_folds(groups, 1)


def test_shrinkage_ends_at_the_printed_matrix_and_at_the_identity():
    streams, labels, groups = drawn()
    base = MeanOfProbabilities()
    printed = ContextualRefinement(base).fit(table(streams, labels))
    f = base.predict_scores(table(streams))
    np.testing.assert_allclose(printed.matrix, confusion_refinement(f, labels))
    np.testing.assert_allclose(
        printed.predict_scores(table(streams)), refine(f, printed.matrix, normalize=True)
    )
    # Labels at random: what the matrix says is noise, and the identity is best.
    noise = np.random.default_rng(0).integers(6, size=240)
    shrunk = ContextualRefinement(base, shrink=True).fit(table(streams, labels, groups))
    assert shrunk.shrinkage > 0
    np.testing.assert_allclose(
        shrunk.matrix, shrunk.shrinkage * np.eye(6) + (1 - shrunk.shrinkage) * printed.matrix
    )
    alone = ContextualRefinement(base, shrink=True).fit(table(streams, noise, np.zeros(240)))
    assert alone.shrinkage == 1.0


def test_diffusion_without_edges_leaves_scores_alone():
    scores = np.random.default_rng(0).dirichlet(np.ones(5), size=20)
    path = diffusion(scores, np.zeros((5, 5)), alpha=0.3, beta=0.1)
    for _, operator in zip(range(6), path, strict=False):
        np.testing.assert_array_equal(operator, np.eye(5))
    # One class without edges keeps its scores while others are drawn together.
    graph = np.zeros((5, 5))
    graph[0, 1] = graph[1, 0] = 1.0
    *_, operator = (one for _, one in zip(range(9), diffusion(scores, graph, alpha=0.3, beta=0),
                                          strict=False))  # fmt: skip
    np.testing.assert_array_equal((scores @ operator)[:, 2:], scores[:, 2:])
    before, after = np.ptp(scores[:, :2], axis=1), np.ptp((scores @ operator)[:, :2], axis=1)
    assert (after < 0.1 * before + 1e-12).all()


def test_diffusion_lowers_the_energy_at_every_step():
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(6), size=50)
    graph = random.random((6, 6))
    graph = np.triu(graph, 1) + np.triu(graph, 1).T
    path = diffusion(scores, graph, alpha=0.2, beta=0.0)
    found = [energy(scores @ one, graph) for _, one in zip(range(12), path, strict=False)]
    assert all(later < earlier for earlier, later in zip(found, found[1:], strict=False))
    # The energy, written out.
    degrees = graph.sum(1)
    scaled = scores / np.sqrt(degrees)
    pairs = ((scaled[:, :, None] - scaled[:, None]) ** 2).sum(0)
    assert energy(scores, graph) == pytest.approx((graph * pairs).sum() / 2 / len(scores))


def test_class_graphs():
    targets = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]], bool)
    graph = class_graph(np.zeros((4, 3)), targets, multi_label=True)
    expected = np.corrcoef(targets.T.astype(float))[0, 1]
    np.testing.assert_allclose(graph, [[0, expected, 0], [expected, 0, 0], [0, 0, 0]], atol=1e-12)
    scores = np.random.default_rng(0).dirichlet(np.ones(30), size=99)
    graph = class_graph(scores, np.zeros((99, 30), bool), multi_label=False, neighbors=3)
    assert (graph == graph.T).all() and (np.diag(graph) == 0).all() and (graph >= 0).all()
    assert (graph > 0).sum(1).min() >= 3


def map_problem(multi_label, n=30):
    """A table of map inputs, some of its rows, and temperatures."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(n + 10, 8)).astype(np.float32)
    targets = np.eye(4, dtype=bool)[random.integers(4, size=n + 10)]
    if multi_label:
        targets |= random.random((n + 10, 4)) < 0.3
    rows = random.permutation(n + 10)[:n]
    clips = Table.of({INPUTS: inputs}, targets=Targets.from_dense(targets, multi_label=multi_label))
    return clips, rows, np.array([0.5, 2.0])


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_gradient_of_the_learned_refinement(multi_label):
    vector = 0.3 * np.random.default_rng(1).normal(size=2 + 9 * 4)
    clips, rows, temperatures = map_problem(multi_label)
    value, gradient = objective(vector, clips, rows, temperatures, 0.1)
    for place in (0, 1, 2, 7, 20, 37):
        step = np.zeros_like(vector)
        step[place] = 1e-2
        up, down = (
            objective(vector + sign * step, clips, rows, temperatures, 0.1)[0] for sign in (1, -1)
        )
        assert gradient[place] == pytest.approx((up - down) / 2e-2, abs=2e-4)
    # The value, written out: z = sum_s (a_s I + A_s) z_s / T_s + c.
    a, borrowing, bias = LogitMap(vector, 2, 4).parts()
    z = bias + sum(
        clips.features[INPUTS][rows][:, 4 * s : 4 * s + 4]
        / temperatures[s]
        @ (a[s] * np.eye(4) + borrowing[s]).T
        for s in range(2)
    )
    loss = log_loss(z, clips.targets[rows].dense(bool), multi_label=multi_label)
    penalty = 0.05 * ((borrowing**2).sum() + (bias**2).sum())
    assert value == pytest.approx(loss + penalty, rel=1e-5)
    total = LogitMap(vector, 2, 4).loss(clips, rows, temperatures)
    assert total == pytest.approx(30 * loss, rel=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_batches_give_the_gradient_of_the_whole(multi_label, monkeypatch):
    vector = 0.3 * np.random.default_rng(1).normal(size=2 + 9 * 4)
    clips, rows, temperatures = map_problem(multi_label)
    value, gradient = objective(vector, clips, rows, temperatures, 0.1)
    monkeypatch.setattr(logit_map, "BATCH", 4 * 7)
    assert [len(inputs) for inputs, _ in map_batches(clips, rows)] == [7, 7, 7, 7, 2]
    again, other = objective(vector, clips, rows, temperatures, 0.1)
    assert again == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(other, gradient, atol=1e-6)


@pytest.mark.slow
def test_a_set_too_large_is_learned_from_a_share_of_each_class():
    streams, labels = mixed_up()
    s, n, c = len(streams), len(labels), 4
    whole = LearnedRefinement(MeanOfLogits()).fit(table(streams, labels))
    assert whole.learned_from == ""
    part = LearnedRefinement(MeanOfLogits(), most_products=n * s * c**2 / 6).fit(
        table(streams, labels)
    )
    assert part.learned_from == f"{n // 2} of {n} clips" and part.fallback == ""
    others, answers = mixed_up(seed=1)
    plain = accuracy(MeanOfLogits().predict_scores(table(others)), answers)
    assert accuracy(part.predict_scores(table(others)), answers) > plain + 0.1
    little = LearnedRefinement(MeanOfLogits(), most_products=39 * s * c**2 / 3)
    assert f"39 of {n} clips, fewer than 10" in little.fit(table(streams, labels)).fallback
    targets = Targets.from_classes(np.repeat([0, 1, 2], [50, 5, 20]), 3)
    rows = of_each_class(targets, 35)
    assert targets[rows].class_counts.tolist() == [15, 5, 15] and (np.diff(rows) > 0).all()


def test_the_learned_refinement_finds_who_borrows_from_whom():
    streams, labels = mixed_up()
    method = LearnedRefinement(MeanOfLogits()).fit(table(streams, labels))
    assert method.fallback == ""
    others, answers = mixed_up(seed=1)
    plain = accuracy(MeanOfLogits().predict_scores(table(others)), answers)
    assert accuracy(method.predict_scores(table(others)), answers) > plain + 0.1
    # Class 0 takes from 2 what class 1 takes from 3.
    borrowed = method.borrowing.sum(0)
    assert borrowed[0, 2] > borrowed[0, 3] and borrowed[1, 3] > borrowed[1, 2]
    # z is what is printed.
    one = {name: values[:3] for name, values in others.items()}
    z = sum(
        (method.weights[s] * np.eye(4) + method.borrowing[s])
        @ (values / method.temperatures[s] - (values / method.temperatures[s]).mean(1)[:, None]).T
        for s, values in enumerate(one.values())
    )
    np.testing.assert_allclose(method.logits(table(one)), z.T + method.bias, atol=1e-5)


def test_too_little_to_learn_from_gives_the_plain_mean_and_says_so():
    streams, labels, _ = drawn(6, noise=0.5)
    labels = np.arange(6)
    one = {name: values[:6] for name, values in streams.items()}
    method = LearnedRefinement(MeanOfProbabilities()).fit(table(one, labels))
    assert "6 of 6 classes have clips in one group only" in method.fallback
    np.testing.assert_array_equal(
        method.predict_scores(table(one)), MeanOfProbabilities().predict_scores(table(one))
    )
    grouped = LearnedRefinement(MeanOfProbabilities()).fit(table(one, labels, ["a"] * 6))
    assert "fewer than two groups" in grouped.fallback


def test_very_many_classes_are_left_alone():
    random = np.random.default_rng(0)
    streams = {"one": random.normal(size=(20, 501))}
    labels = random.integers(501, size=20)
    plain = MeanOfLogits().predict_scores(table(streams))
    learned = LearnedRefinement(MeanOfLogits(), most_products=5 * 501**2).fit(
        table(streams, labels)
    )
    assert "501 classes x 1 systems leave time to learn from 15 of 20 clips" in learned.fallback
    np.testing.assert_array_equal(learned.predict_scores(table(streams)), plain)
    diffused = SemanticDiffusion(MeanOfLogits()).fit(table(streams, labels))
    np.testing.assert_allclose(diffused.predict_scores(table(streams)), plain, rtol=1e-12)


def test_a_scores_file_of_one_method_comes_back(tmp_path):
    streams, labels, groups = drawn()
    for given in ("logits", "probabilities"):
        scores = (
            streams if given == "logits" else {k: to_probabilities(v) for k, v in streams.items()}
        )
        for name in METHODS:
            fitted = FittedRefinement.fit(
                name, table(scores, labels, groups), given=given, classes=tuple("abcdef"),
                facts={"from": "a test"},
            )  # fmt: skip
            back = FittedRefinement.from_bytes(fitted.to_bytes())
            np.testing.assert_array_equal(
                back.predict_scores(scores), fitted.predict_scores(scores)
            )
            assert (back.name, back.streams, back.note) == (name, ("one", "two"), fitted.note)
            assert back.facts == {"from": "a test"}
            # Systems in another order, and one left out.
            swapped = dict(reversed(scores.items()))
            np.testing.assert_array_equal(
                back.predict_scores(swapped), fitted.predict_scores(scores)
            )
            alone = back.predict_scores({"two": scores["two"]})
            nothing = np.full_like(scores["one"], np.nan)
            np.testing.assert_array_equal(
                alone, back.predict_scores({"one": nothing, "two": scores["two"]})
            )


def test_files_that_are_no_refinement_are_refused():
    fitted = contextual(
        np.eye(2), streams=("a",), classes=("x", "y"), multi_label=False, normalize=True
    )
    content = fitted.to_bytes()
    with pytest.raises(UserError, match="is damaged"):
        FittedRefinement.from_bytes(content[:-3])
    with pytest.raises(UserError, match="is damaged"):
        FittedRefinement.from_bytes(b"nothing of the kind")
    for record in ("[]", "1", '{"format": 1, "constants": []}'):
        crafted = safetensors.numpy.save({"a": np.zeros(1)}, metadata={KEY: record})
        with pytest.raises(UserError, match="is damaged|is incomplete"):
            FittedRefinement.from_bytes(crafted)
    with pytest.raises(ValueError, match="fitted on \\['a'\\], got scores of \\['b'\\]"):
        fitted.predict_scores({"b": [[0.5, 0.5]]})
    with pytest.raises(ValueError, match="outside of 0..1"):
        fitted.predict_scores({"a": [[-0.5, 1.5]]})
    with pytest.raises(ValueError, match="must be of 2 classes"):
        fitted.predict_scores({"a": [[0.5, 0.25, 0.25]]})


def test_a_refinement_of_other_sizes_than_it_says_is_refused():
    fitted = contextual(
        np.eye(3), streams=("a",), classes=("x", "y", "z"), multi_label=False, normalize=True
    )
    wrong = replace(fitted, classes=("x", "y"))
    with pytest.raises(UserError, match=r"matrix is \(3, 3\), it must be \(2, 2\)"):
        FittedRefinement.from_bytes(wrong.to_bytes())


def test_held_out_labels_change_no_held_out_score():
    """What a fold predicts depends on the other folds' labels alone."""
    streams, labels, groups = drawn(180)
    methods = {name: (lambda name=name: make_method(name, given="logits", multi_label=False))
               for name in METHODS}  # fmt: skip
    methods |= {f"fusion{i}": (lambda make=make: make(False)) for i, make in enumerate(FUSIONS)}
    held = np.isin(groups, ["g3"])
    shuffled = labels.copy()
    shuffled[held] = np.random.default_rng(0).permutation(labels[held])
    assert (shuffled != labels).any()
    one = cross_validate(methods, table(streams, labels, groups), 8, workers=1)
    two = cross_validate(methods, table(streams, shuffled, groups), 8, workers=1)
    for name in methods:
        np.testing.assert_array_equal(one[name][held], two[name][held], err_msg=name)
        if name not in ("fusion0", "fusion1", "none"):
            assert (one[name][~held] != two[name][~held]).any(), name


def candidates(given="logits", multi_label=False):
    return {
        name: (lambda name=name: make_method(name, given=given, multi_label=multi_label))
        for name in ("none", "confusion", "dasd", "learned")
    }


def test_labels_that_are_noise_choose_none():
    for seed in range(3):
        streams, labels, groups = drawn(160, groups=16, seed=seed)
        noise = np.random.default_rng(seed).integers(6, size=160)
        clips = table(streams, noise, groups)
        choice = choose(cross_validate(candidates(), clips, 4), clips.targets, groups)
        assert choice.name == "none" and "beyond noise" in choice.reason


def test_a_refinement_that_helps_is_chosen():
    streams, labels = mixed_up()
    groups = np.arange(600) % 20
    clips = table(streams, labels, groups)
    choice = choose(cross_validate(candidates(), clips, 4), clips.targets, groups)
    assert choice.name == "learned" and choice.chances["learned"] == 0
    assert choice.measures["learned"] > choice.measures["none"] + 0.1


def test_the_printed_refinement_is_not_chosen_where_it_does_harm():
    """Several labels per clip: each row of R points at the commonest class."""
    random = np.random.default_rng(0)
    targets = random.random((200, 5)) < [0.9, 0.2, 0.2, 0.2, 0.2]
    targets[:, 0] |= ~targets.any(1)
    logits = 6 * targets - 3 + random.normal(size=targets.shape)
    clips = table({"one": logits, "two": logits}, targets)
    held_out = cross_validate(candidates(multi_label=True), clips, 4)
    choice = choose(held_out, clips.targets, clips.groups)
    assert choice.measures["confusion"] < choice.measures["none"] - 0.05
    assert choice.name in ("none", "learned")


def test_a_tie_is_not_called_better():
    scores, labels = np.eye(3)[np.arange(30) % 3], np.arange(30) % 3
    targets = Targets.from_classes(labels, 3)
    choice = choose({"none": scores, "dasd": scores}, targets, np.arange(30))
    assert choice.name == "none" and choice.reason.endswith("beyond noise (no other is above it)")


def test_calibration_by_hand():
    scores = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [1.0, 0.0]]
    curve = reliability(scores, [0, 1, 1, 0], bins=4)
    np.testing.assert_array_equal(curve.counts, [0, 0, 1, 3])
    np.testing.assert_allclose(curve.confidence[2:], [0.7, 0.9])
    np.testing.assert_allclose(curve.right[2:], [1.0, 2 / 3])
    assert curve.ece == pytest.approx((0.3 + 3 * (0.9 - 2 / 3)) / 4)
    every = reliability(scores, np.eye(2)[[0, 1, 1, 0]], multi_label=True, bins=4)
    assert every.counts.sum() == 8
    with pytest.raises(ValueError, match="probabilities within"):
        reliability([[1.5, 0.0]], [0])


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ({}, "at least one stream"),
        ({"a": [[1.0, 2.0]], "b": [[1.0]]}, "must all have the same number of classes"),
        ({"a": [[1.0, 2.0]], "b": [1.0, 2.0]}, "of one shape"),
        ({"a": [[1.0, 2.0]], "b": [[1.0, 2.0]] * 2}, r"must be \(1, D\)"),
        ({"a": [[np.nan, 2.0]]}, "'a' hold NaN or infinity in rows 0"),
        ({"a": [[1.0, 2.0], [np.nan, np.nan]]}, "rows 1 have none of"),
    ],
)
def test_scores_that_are_refused(streams, message):
    with pytest.raises(ValueError, match=message):
        score_table(streams)


def test_targets_that_are_refused():
    streams = {"a": [[1.0, 2.0], [0.0, 1.0]]}
    for targets, message in (
        (Targets.from_classes([0, 1], 3), "scores of 2 classes, targets of 3"),
        (
            Targets.from_dense(np.eye(2), multi_label=True),
            "is single-label, its targets are multi-label",
        ),
        (Targets.of([[0], []], 2), "rows 1 have no label"),
    ):
        with pytest.raises(ValueError, match=message):
            MeanOfLogits().fit(score_table(streams, targets))


def test_neither_ray_nor_torch_nor_scikit_learn_is_needed():
    code = (
        "import sys, trainers.refinement.fitted, trainers.refinement.choose;"
        "print([m for m in ('ray', 'mlflow', 'torch', 'sklearn') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_learned_refinement_on_real_scores(real_data):
    """One group held out of seven; the whole protocol is the job's test."""
    data = np.load(real_data / "checks/ucf101_split1_twostream_scores_orri17.npz")
    groups = np.array([re.search(r"_(g\d\d)_c", name).group(1) for name in data["video_ids"]])
    streams = {s: data[f"{s}_scores"].astype(float) for s in ("spatial", "motion")}
    expected = json.loads((real_data / "checks/ucf101_split1_twostream_expected.json").read_text())
    plain = MeanOfLogits().predict_scores(table(streams))
    right = int((plain.argmax(1) == data["labels"]).sum())
    assert right == expected["orri17"]["average_fusion_raw_scores(s+m)"]["correct"] == 3329
    held = groups == "g01"
    train = {s: values[~held] for s, values in streams.items()}
    test = {s: values[held] for s, values in streams.items()}
    method = LearnedRefinement(MeanOfLogits(), inner_folds=2)
    method.fit(table(train, data["labels"][~held], groups[~held]))
    labels = data["labels"][held]
    gain = accuracy(method.predict_scores(table(test)), labels) - accuracy(plain[held], labels)
    assert gain > 0.01

"""SVMs: early fusion of one feature is that feature's SVM; MKL against a general solver."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from made_clips import accuracy, make, split
from scipy.optimize import LinearConstraint, minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC

from actors.errors import UserError
from trainers.fusion.kernels import Chi2Kernel
from trainers.fusion.method import LateFusion
from trainers.fusion.mkl import best_weights, fit_mkl
from trainers.fusion.svm import Calibration, KernelSVM, balanced, fit_one_against_rest
from trainers.targets import Targets

pytestmark = pytest.mark.usefixtures("one_thread")


def small_problem(n: int = 40, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(S, n, n) kernels of different worth, and signs."""
    random = np.random.default_rng(2)
    signs = np.where(np.arange(n) % 2, 1.0, -1.0)
    features = [random.standard_normal((n, 5)) + 0.5 * s * signs[:, None] for s in range(count)]
    return np.stack([Chi2Kernel(x - x.min(0)).gram.astype(float) for x in features]), signs


def test_early_fusion_of_one_feature_is_its_svm_also_where_it_is_absent() -> None:
    train, test = split(make(absent=0.3))
    single = KernelSVM(streams=["b"]).fit(train)
    fused = KernelSVM("mean", streams=["b"]).fit(train)
    learned = KernelSVM("mkl", streams=["b"]).fit(train)
    expected = single.predict_scores(test)
    np.testing.assert_array_equal(fused.predict_scores(test), expected)
    np.testing.assert_allclose(learned.predict_scores(test), expected, atol=2e-3)
    there = train.present["b"]
    kernel = Chi2Kernel(train.features["b"][there])
    new = test.part(test.present["b"]).select(["b"])
    for c in range(4):
        reference = SVC(kernel="precomputed", C=single.chosen["C"], class_weight="balanced")
        reference.fit(kernel.gram, train.targets.dense()[there, c])
        np.testing.assert_allclose(
            single.decision_values(new)[:, c],
            reference.decision_function(kernel(new.features["b"])),
            atol=1e-6,
        )
    lacking = expected[~test.present["b"]]
    assert len(lacking)
    np.testing.assert_allclose(lacking, np.broadcast_to(train.targets.shares(), lacking.shape))


def test_mkl_with_one_kernel_is_the_svm() -> None:
    kernels, signs = small_problem(count=1)
    found = fit_mkl(kernels, signs, 2.0, gap=1e-2, tolerance=1e-3)
    machine = fit_one_against_rest(kernels[0], (signs[:, None] + 1) / 2, 2.0)
    assert balanced(signs, 2.0) == pytest.approx(np.full(40, 2.0)), "as many of either sign"
    np.testing.assert_allclose(found.alpha * signs, machine.coefficients[0], atol=1e-9)
    assert found.weights == pytest.approx([1.0]) and found.bias == pytest.approx(machine.bias[0])


@pytest.mark.parametrize("norm", [1.5, 2.0, 4.0])
def test_mkl_agrees_with_a_general_convex_solver(norm: float) -> None:
    kernels, signs = small_problem()
    cost = np.where(signs > 0, 2.5, 1.0)
    found = fit_mkl(kernels, signs, cost, norm=norm, gap=1e-6, tolerance=1e-7)
    signed = signs[:, None] * kernels * signs
    dual_norm = norm / (norm - 1)

    def loss(alpha: np.ndarray) -> tuple[float, np.ndarray]:
        outputs = signed @ alpha
        parts = np.maximum(outputs @ alpha, 1e-15)
        size = (parts**dual_norm).sum() ** (1 / dual_norm)
        slope = (parts / size) ** (dual_norm - 1) @ outputs
        return 0.5 * size - alpha.sum(), slope - 1

    general = minimize(
        loss,
        cost / 2,
        jac=True,
        method="trust-constr",
        bounds=[(0, most) for most in cost],
        constraints=LinearConstraint(signs[None], 0, 0),
        options={"gtol": 1e-7, "xtol": 1e-10, "maxiter": 3000},
    )
    assert found.objective == pytest.approx(-general.fun, rel=1e-4)
    assert found.gap <= 1e-6
    assert np.linalg.norm(found.weights, norm) == pytest.approx(1)
    assert found.weights.argmax() == 2, "the most telling kernel weighs most"
    assert all(b <= a * (1 + 1e-6) for a, b in zip(found.history, found.history[1:], strict=False))


def test_the_stated_gap_holds_or_the_result_says_not() -> None:
    kernels, signs = small_problem()
    for count in (1, 3):
        found = fit_mkl(kernels[:count], signs, 1.0, gap=1e-7, tolerance=1e-2)
        assert found.settled and found.gap <= 1e-7
        # The gap again, from alpha, weights and bias alone.
        signed = found.alpha * signs
        parts = np.einsum("i,sij,j->s", signed, kernels[:count], signed)
        decisions = np.einsum("s,sij,j->i", found.weights, kernels[:count], signed) + found.bias
        primal = found.weights @ parts / 2 + np.maximum(0, 1 - signs * decisions).sum()
        dual = found.alpha.sum() - np.linalg.norm(parts) / 2
        assert (primal - dual) / primal == pytest.approx(found.gap, abs=1e-12)
        assert found.objective == pytest.approx(primal) and abs(signed.sum()) < 1e-9
        assert (found.alpha >= 0).all() and (found.alpha <= 1 + 1e-12).all()
        short = fit_mkl(kernels[:count], signs, 100.0, gap=1e-7, most=3)
        assert not short.settled and short.gap > 1e-7


@pytest.mark.parametrize("combine", ["mean", "mkl"])
def test_machines_that_stop_at_the_limit_say_so(combine: str) -> None:
    train, test = split(make(noise=0.6))
    with pytest.warns(ConvergenceWarning, match="stopped short of the .* at most 2 iterations"):
        short = KernelSVM(combine, most=2, costs=[100.0]).fit(train)
    assert short.chosen["note"].startswith("4 of 4 classes' machines")
    assert np.isfinite(short.predict_scores(test)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "note" not in KernelSVM(combine).fit(train).chosen


def test_the_closed_form_weights_are_the_best() -> None:
    squares = np.array([0.5, 2.0, 0.0, 1.0])
    best = best_weights(squares, 2.0)
    random = np.random.default_rng(0).random((2000, 4)) + 1e-6
    others = random / np.linalg.norm(random, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        least = np.nansum(squares / best)
    assert least <= (squares / others).sum(1).min()


@pytest.mark.parametrize("combine", ["mean", "mkl"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_fusion_knows_what_no_single_stream_does(combine: str, multi_label: bool) -> None:
    train, test = split(make(200, absent=0.1, noise=0.3, multi_label=multi_label))
    fused = KernelSVM(combine).fit(train)
    scores = fused.predict_scores(test)
    assert ((scores >= 0) & (scores <= 1)).all()
    if multi_label:
        assert ((scores > 0.5) == test.targets.dense(bool)).mean() > 0.85
        return
    np.testing.assert_allclose(scores.sum(1), 1)
    assert accuracy(scores, test) > 0.8
    assert accuracy(KernelSVM(streams=["a"]).fit(train).predict_scores(test), test) < 0.7


def test_late_fusion_is_the_mean_over_the_streams_there() -> None:
    train, test = split(make(absent=0.3))
    late = LateFusion(lambda name: KernelSVM(streams=[name])).fit(train)
    single = {s: KernelSVM(streams=[s]).fit(train).predict_scores(test) for s in "ab"}
    a, b = test.present["a"], test.present["b"]
    expected = np.where((a & b)[:, None], (single["a"] + single["b"]) / 2, single["a"])
    expected[b & ~a] = single["b"][b & ~a]
    np.testing.assert_allclose(late.predict_scores(test), expected)
    assert {"a.C", "b.C"} <= set(late.chosen)


def test_calibration_keeps_orders() -> None:
    random = np.random.default_rng(0)
    targets = np.eye(3)[random.integers(0, 3, 60)]
    values = targets + random.standard_normal((60, 3))
    single = Calibration.fit(values, targets, multi_label=False)
    assert (single(values).argmax(1) == values.argmax(1)).all()
    several = Calibration.fit(values, targets, multi_label=True)
    assert (several(values).argsort(0) == values.argsort(0)).all()
    assert several(values).mean(0) == pytest.approx(targets.mean(0), abs=0.02)


def test_wrong_tables_are_refused() -> None:
    made = make(20)
    with pytest.raises(UserError, match="all of one"):
        KernelSVM().fit(replace(made, groups=np.zeros(20)))
    with pytest.raises(ValueError, match="rows 0, 1, .* have no label"):
        KernelSVM().fit(replace(made, targets=Targets.unlabeled(20, 4)))
    with pytest.raises(ValueError, match="0 classes"):
        KernelSVM().fit(replace(made, targets=Targets.unlabeled(20, multi_label=True)))
    with pytest.raises(ValueError, match="no training clip has the stream 'b'"):
        KernelSVM().fit(made.with_feature("b", made.features["b"], np.zeros(20, bool)))
    with pytest.raises(ValueError, match="before"):
        KernelSVM().predict_scores(made)
    with pytest.raises(ValueError, match=r"no features of \['c'\]"):
        KernelSVM(streams=["c"]).fit(made)


def test_a_machine_that_sees_part_of_a_class_still_knows_that_part() -> None:
    """Stream "a" tells pairs of four classes: neither of a pair has a chance above a half."""
    train, test = split(make(200, noise=0.1))
    scores = KernelSVM(streams=["a"]).fit(train).predict_scores(test)
    pair = test.targets.classes() // 2
    of_pair = np.stack([scores[:, :2].sum(1), scores[:, 2:].sum(1)], 1)
    assert (of_pair.argmax(1) == pair).mean() > 0.95
    inside = scores[np.arange(len(pair)), 2 * pair]
    assert np.abs(inside / of_pair.max(1) - 0.5).mean() < 0.2

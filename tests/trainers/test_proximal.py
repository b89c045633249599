"""The proximal operator against a numerical minimizer, and against the formula as printed."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from trainers.fusion.proximal import penalty, proximal_step, sparsity


def minimized(weight, step, lambda2, lambda3):
    """argmin_V of the operator's definition by L-BFGS-B, knowing no closed form.

    V = A - B with A, B >= 0 turns the absolute values into a sum; only a row's norm stays unsmooth,
    and only at zero, which is compared as a candidate of its own.
    """
    rows = []
    for row in weight:

        def objective(x, row=row):
            value = x[: len(row)] - x[len(row) :]
            norm = np.sqrt(value @ value + 1e-24)
            residual = value - row
            cost = 0.5 * residual @ residual + step * (lambda2 / 2 * norm + lambda3 * x.sum())
            slope = residual + step * lambda2 / 2 * value / norm
            return cost, np.concatenate([slope, -slope]) + step * lambda3

        start = np.concatenate([np.maximum(row, 0), np.maximum(-row, 0)])
        for _ in range(20):  # a line search that gives up early starts anew where it stopped
            found = minimize(
                objective,
                start,
                jac=True,
                method="L-BFGS-B",
                bounds=[(0, None)] * len(start),
                options={"maxiter": 5000, "ftol": 0, "gtol": 1e-13},
            )
            if np.array_equal(start, found.x):
                break
            start = found.x
        value = found.x[: len(row)] - found.x[len(row) :]
        rows.append(value if found.fun < 0.5 * row @ row else np.zeros_like(row))
    return np.array(rows)


def printed(weight, lambda2, lambda3):
    """Eq. 4 of the paper, to the letter."""
    shrunk = np.maximum(np.abs(weight) - lambda3, 0) * np.sign(weight)
    return (1 - lambda2 / np.linalg.norm(shrunk, axis=1, keepdims=True)) * shrunk


@pytest.mark.parametrize(
    ("step", "lambda2", "lambda3"),
    [(0.7, 0.9, 0.3), (0.7, 0.0, 0.4), (1.0, 1.5, 0.0), (0.1, 0.5, 0.2), (0.5, 6.0, 0.1)],
)
def test_minimizes_its_definition(step, lambda2, lambda3):
    rng = np.random.default_rng(7)
    weight = rng.normal(size=(12, 6)) * rng.uniform(0.1, 1.5, size=(12, 1))
    ours = proximal_step(torch.tensor(weight), step=step, lambda2=lambda2, lambda3=lambda3).numpy()
    assert np.abs(ours - minimized(weight, step, lambda2, lambda3)).max() < 1e-6


def test_no_nearby_matrix_is_better():
    rng = np.random.default_rng(3)
    weight = torch.tensor(rng.normal(size=(8, 5)))
    best = proximal_step(weight, step=0.7, lambda2=1.0, lambda3=0.4)

    def cost(value):
        return 0.5 * ((value - weight) ** 2).sum() + 0.7 * penalty(value, lambda2=1.0, lambda3=0.4)

    for scale in (1e-1, 1e-3, 1e-5):
        for _ in range(50):
            assert cost(best + scale * torch.tensor(rng.normal(size=best.shape))) > cost(best)


def test_differs_from_the_printed_formula():
    weight = np.array([[0.3, -0.2, 0.1], [2.0, -1.0, 0.5]])
    ours = proximal_step(torch.tensor(weight), step=0.7, lambda2=0.5, lambda3=0.05).numpy()
    theirs = printed(weight, 0.5, 0.05)
    # The printed factor is negative for the short row: its signs flip.
    assert (np.sign(theirs[0]) == -np.sign(weight[0])).all()
    assert (np.sign(ours) * np.sign(weight) >= 0).all()
    # Neither the step nor the half is in it: the long row is shrunk too far.
    assert np.linalg.norm(theirs[1]) < np.linalg.norm(ours[1]) - 0.2
    assert np.abs(ours - minimized(weight, 0.7, 0.5, 0.05)).max() < 1e-6
    # With both put in (step * lambda2 / 2, step * lambda3), a long row agrees.
    np.testing.assert_allclose(printed(weight, 0.5 * 0.7 / 2, 0.05 * 0.7)[1], ours[1], rtol=1e-12)


def test_zeros_are_exact_and_zero_rows_stay():
    weight = torch.tensor([[0.0, 0.0], [0.1, -0.05], [3.0, 0.01]])
    out = proximal_step(weight, step=1.0, lambda2=0.4, lambda3=0.02)
    assert torch.equal(out[:2], torch.zeros(2, 2))
    assert out[2, 0] > 2 and out[2, 1] == 0
    assert sparsity(out) == {
        "zero_rows": pytest.approx(2 / 3),
        "zero_entries": pytest.approx(5 / 6),
    }


def test_every_member_of_a_batch_by_itself():
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    together = proximal_step(weight, step=0.5, lambda2=1.0, lambda3=0.1)
    for one, alone in zip(together, weight, strict=True):
        assert torch.equal(one, proximal_step(alone, step=0.5, lambda2=1.0, lambda3=0.1))


def test_no_penalty_changes_nothing():
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(proximal_step(weight, step=0.7, lambda2=0.0, lambda3=0.0), weight)


def test_refuses_negative_weights():
    with pytest.raises(ValueError, match=r"lambda3 must be at least 0, got -1"):
        proximal_step(torch.zeros(1, 1), step=1.0, lambda2=0.0, lambda3=-1.0)

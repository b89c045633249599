"""Boundary cases of the proximal operator and of its penalty."""

import pytest
import torch

from trainers.fusion.proximal import penalty, proximal_step, sparsity

WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)


def test_the_penalty_by_hand():
    # Norms of rows 5, 0, 1; absolute values 3 + 4 + 1.
    assert penalty(WEIGHT, lambda2=2.0, lambda3=0.0) == 6.0
    assert penalty(WEIGHT, lambda2=0.0, lambda3=0.5) == 4.0
    assert penalty(WEIGHT, lambda2=2.0, lambda3=0.5) == 10.0


def test_the_penalty_of_a_batch_is_that_of_each_member():
    batch = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = penalty(batch, lambda2=0.7, lambda3=0.3)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert found[i, j] == pytest.approx(penalty(batch[i, j], lambda2=0.7, lambda3=0.3))


def test_a_step_by_hand():
    # Entries move by 1 * 0.5 to [2.5, -3.5] and [0.5, 0]; rows then lose 1 * 2 / 2 of their norm.
    found = proximal_step(WEIGHT, step=1.0, lambda2=2.0, lambda3=0.5)
    norm = (2.5**2 + 3.5**2) ** 0.5
    expected = torch.tensor([[2.5, -3.5], [0, 0], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected * (1 - 1 / norm))
    assert torch.equal(found[1:], torch.zeros(2, 2, dtype=torch.float64))


def test_a_row_as_long_as_the_threshold_becomes_zero_and_a_longer_one_does_not():
    row = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    assert not proximal_step(row, step=0.5, lambda2=4.0, lambda3=0.0).any()
    assert proximal_step(row * 1.001, step=0.5, lambda2=4.0, lambda3=0.0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_step_of_no_length_changes_nothing_not_even_zero_rows(dtype):
    weight = WEIGHT.to(dtype)
    assert torch.equal(proximal_step(weight, step=0.0, lambda2=2.0, lambda3=0.5), weight)


def test_the_weight_itself_is_not_changed():
    weight = WEIGHT.clone()
    proximal_step(weight, step=1.0, lambda2=2.0, lambda3=0.5)
    assert torch.equal(weight, WEIGHT)


def test_sparsity_counts_rows_and_entries():
    assert sparsity(WEIGHT) == {"zero_rows": pytest.approx(1 / 3), "zero_entries": 0.5}
    assert sparsity(WEIGHT[None, :2]) == {"zero_rows": 0.5, "zero_entries": 0.5}


@pytest.mark.parametrize("name", ["step", "lambda2", "lambda3"])
@pytest.mark.parametrize("value", [-1e-9, float("nan")])
def test_what_is_not_at_least_zero_is_refused(name, value):
    settings = {"step": 0.0, "lambda2": 0.0, "lambda3": 0.0}
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got {value}"):
        proximal_step(WEIGHT, **settings | {name: value})

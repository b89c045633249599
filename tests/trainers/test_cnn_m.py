"""CNN-M's normalization in bfloat16 against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers.encoders.cnn_m import CrossChannelNorm


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_normalization_in_bfloat16_is_pytorchs_up_to_rounding(size, beta):
    options = {"alpha": 0.5, "beta": beta, "k": 2.0}
    x = 4 * torch.randn(2, 9, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = nn.LocalResponseNorm(size, **options)(x)
    found = CrossChannelNorm(size, **options)(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.01)


def test_in_single_precision_nothing_changes():
    x = torch.randn(2, 9, 3, 4)
    expected = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)(x)
    assert torch.equal(CrossChannelNorm(5, alpha=5e-4, beta=0.75, k=2.0)(x), expected)

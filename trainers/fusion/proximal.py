"""The exact proximal operator of the fusion layer's regularizer.

The Hybrid paper (Jiang et al., "Modeling Multimodal Clues in a Hybrid Deep Learning Framework for
Video Classification", Eq. 3 and 4) adds to the loss::

    q(W) = (lambda2 / 2) * ||W||_{2,1} + lambda3 * ||W||_{1,1},    ||W||_{2,1} = sum_r ||W_r||_2

Its Eq. 4 shrinks a row by ``1 - lambda2 / ||U_r||``. As printed, that factor turns negative (and
flips the row's signs) where the row is short, divides by zero where it is zero, and carries neither
the step size nor the half. What follows is the operator itself.
"""

from __future__ import annotations

import torch
from torch import Tensor


def proximal_step(weight: Tensor, *, step: float, lambda2: float, lambda3: float) -> Tensor:
    """Returns ``argmin_V 0.5 * ||V - weight||_F^2 + step * q(V)``, exactly.

    Entries are soft-thresholded by ``step * lambda3`` first; each row is then scaled by
    ``max(0, 1 - step * lambda2 / 2 / ||row||)``. The order matters: for the sum of an l1 and a
    group l2 norm, the group's operator after the entries' is the operator of the sum.

    Args:
        weight: (..., P, D) any floating dtype; a row per fused neuron. Not changed.
        step: step size (learning rate) of the gradient step that came before, at least 0.
        lambda2: weight of the row norm, at least 0.
        lambda3: weight of the entries' absolute values, at least 0.

    Returns:
        (..., P, D), with exact zeros.

    Raises:
        ValueError: a negative step, lambda2 or lambda3.
    """
    for name, value in (("step", step), ("lambda2", lambda2), ("lambda3", lambda3)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value!r}")
    shrunk = torch.sign(weight) * torch.clamp(weight.abs() - step * lambda3, min=0)
    if lambda2 == 0:
        return shrunk
    norms = torch.linalg.vector_norm(shrunk, dim=-1, keepdim=True)
    # A zero row has norm 0: its factor is set to 0 instead of dividing by it.
    factor = torch.where(norms > 0, 1 - step * lambda2 / 2 / norms, 0)
    return shrunk * torch.clamp(factor, min=0)


def penalty(weight: Tensor, *, lambda2: float, lambda3: float) -> Tensor:
    """Returns q(W) of a (..., P, D) weight as a (...) tensor (Hybrid paper, Eq. 3)."""
    rows = torch.linalg.vector_norm(weight, dim=-1).sum(-1)
    return lambda2 / 2 * rows + lambda3 * weight.abs().sum((-2, -1))


def sparsity(weight: Tensor) -> dict[str, float]:
    """Returns the shares, 0 to 1, of rows and of entries of (..., P, D) that are exactly zero."""
    zero = weight == 0
    return {
        "zero_rows": zero.all(-1).double().mean().item(),
        "zero_entries": zero.double().mean().item(),
    }

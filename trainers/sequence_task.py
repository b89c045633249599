"""Fitting a sequence model on one stream's embedded clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actors.errors import UserError
from trainers.loop import OptimiserSettings


@dataclass(frozen=True)
class SequenceSettings:
    """Size and fitting of a stream's LSTM (Jiang et al., section IV-A-2)."""

    hidden: tuple[int, ...] = (1024, 512)
    """Units of the stacked LSTM layers, from the input up."""
    cell: Literal["lstm", "peephole"] = "lstm"
    """lstm is PyTorch's; in peephole the gates see the cell, as the paper's equations have it."""
    dropout: float = 0.0
    """Share of units dropped between layers and before the classifier in training."""
    standardise: bool = True
    """Shift and scale each feature to zero mean and unit variance over the training clips."""
    class_weights: bool = False
    """Weigh classes by their inverse frequency in the loss."""
    cache_mb: int = 2048
    """Megabytes of feature sequences kept in memory."""
    optimiser: OptimiserSettings = OptimiserSettings(
        lr=1e-4,
        batch_size=10,
        weight_decay=0.0,
        max_steps=150_000,
        lr_drop_every=None,
        clip_norm=5.0,
        evaluate_every=1_000,
        patience=20,
        mixed_precision="off",
    )
    """Optimiser, schedule, validation and checkpoints."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise UserError(f"hidden must name at least one layer of 1 unit, not {self.hidden}")
        if self.cell not in ("lstm", "peephole"):
            raise UserError(f"cell must be lstm or peephole, not {self.cell!r}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.cache_mb < 0:
            raise UserError(f"cache_mb must be 0 or more, not {self.cache_mb}")

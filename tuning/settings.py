"""Settings of the search. Command lines are parsed with it: no slow imports."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import UserError
from actors.neutral import neutral


@dataclass(frozen=True)
class SearchSettings:
    """Search for the fusion network's lambda2 and lambda3 by cross-validation, as in Hybrid.

    Raises:
        UserError: a value is out of its range.
    """

    trials: int = 50
    """Number of points (lambda2, lambda3); the first is (0, 0), the network without regularizers.
    0: no search; the values in the fusion's settings are used."""
    folds: int = 5
    """Folds of the cross-validation over the training clips; no group is split."""
    lambda_min: float = 1e-7
    """Smallest lambda other than 0."""
    lambda_max: float = 1e-1
    """Largest lambda."""
    grace_epochs: int = 20
    """Epochs of every point before ASHA may stop it."""
    reduction_factor: float = 3.0
    """ASHA continues one of this many points at each comparison."""
    report_every: int = 5
    """Epochs between two reports of a point."""
    concurrent: int | None = neutral(None)
    """Points evaluated at the same time; null: one per free CPU, except one. With several points
    the result also depends on the order in which they finish; 1 makes the search repeatable bit
    for bit."""
    cpus_per_trial: float = neutral(1.0)
    """CPUs per point."""
    gpus_per_trial: float = neutral(0.0)
    """GPUs per point; with a fraction several points share a GPU."""

    def __post_init__(self) -> None:
        for name, least in (("trials", 0), ("folds", 2), ("grace_epochs", 1), ("report_every", 1)):
            if getattr(self, name) < least:
                raise UserError(
                    f"search.{name} must be at least {least}, got {getattr(self, name)!r}"
                )
        if not 0 < self.lambda_min < self.lambda_max:
            raise UserError(
                "search.lambda_min must be above 0 and below search.lambda_max, got "
                f"{self.lambda_min!r} and {self.lambda_max!r}"
            )
        if not self.reduction_factor > 1:
            raise UserError(
                f"search.reduction_factor must be above 1, got {self.reduction_factor!r}"
            )
        if self.concurrent is not None and self.concurrent < 1:
            raise UserError(f"search.concurrent must be at least 1, got {self.concurrent!r}")
        if not self.cpus_per_trial > 0 or not self.gpus_per_trial >= 0:
            raise UserError(
                "search.cpus_per_trial must be above 0 and search.gpus_per_trial at least 0, got "
                f"{self.cpus_per_trial!r} and {self.gpus_per_trial!r}"
            )

"""What can be set about the search. Light: reading a command line imports it."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import UserError
from actors.neutral import neutral


@dataclass(frozen=True)
class SearchSettings:
    """The search for the fusion layer's lambda2 and lambda3 (Hybrid paper: cross-validation)."""

    trials: int = 50
    """Points (lambda2, lambda3) to try; the first is (0, 0), the network without regularizers.
    0: no search, the fusion's own lambda2 and lambda3 are used."""
    folds: int = 5
    """Folds of the cross-validation over the training clips; a group is never split."""
    lambda_min: float = 1e-7
    """Smallest lambda other than 0."""
    lambda_max: float = 1e-1
    """Largest lambda."""
    grace_epochs: int = 20
    """Epochs that a point is given before it may be stopped for being worse than others."""
    reduction_factor: float = 3.0
    """Of the points that reach a comparison, one in this many goes on (ASHA)."""
    report_every: int = 5
    """Epochs between two reports of a point."""
    concurrent: int | None = neutral(None)
    """Points tried at the same time; default: as many as there are free CPUs, less one. With
    several the result also depends on which finishes first; 1 makes the search repeatable bit for
    bit."""
    cpus_per_trial: float = neutral(1.0)
    """CPUs of one point."""
    gpus_per_trial: float = neutral(0.0)
    """GPUs of one point; a share lets several use one."""

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

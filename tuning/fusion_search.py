"""What the search for lambda2 and lambda3 computes: cross-validation of the fusion network."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.errors import UserError
from trainers.folds import group_folds
from trainers.fusion import FusionClips, FusionSettings, OnEpoch, fit_folds, rank


@dataclass(frozen=True)
class SearchSettings:
    """The search for the fusion layer's lambda2 and lambda3 (Hybrid paper: cross-validation)."""

    trials: int = 50
    """Points (lambda2, lambda3) to try; the first is (0, 0), the network without regularisers.
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
    concurrent: int | None = None
    """Points tried at the same time; default: as many as there are free CPUs, less one. With
    several the result also depends on which finishes first; 1 makes the search repeatable bit for
    bit."""
    cpus_per_trial: float = 1.0
    """CPUs of one point."""
    gpus_per_trial: float = 0.0
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


def cross_validate(
    clips: FusionClips,
    groups: NDArray[np.generic],
    fusion: FusionSettings,
    *,
    lambda2: float,
    lambda3: float,
    folds: int,
    seed: int,
    multi_label: bool = False,
    on_epoch: OnEpoch | None = None,
) -> dict[str, float]:
    """Cross-validates the fusion network at one point.

    Args:
        clips: the training clips, on the device to train on.
        groups: (N,) see `group_folds`.
        fusion: the network; its own lambda2 and lambda3 are not looked at.
        lambda2: weight of the row norm.
        lambda3: weight of the absolute entries.
        folds: number of folds; all are trained in lockstep.
        seed: of folds, weights and order.
        multi_label: judge by mAP, not by accuracy.
        on_epoch: called after each epoch with its measures and those of the best epoch so far:
            ``best_score``, ``best_loss``, ``best_epoch``, ``best_zero_rows``,
            ``best_zero_entries`` and ``rank_value``, by which points are compared: the most is
            best (the score; with ``fusion.keep="loss"`` the negative squared error).

    Returns:
        Of the best epoch by `trainers.fusion.rank`: ``score`` (over all held-out clips in one
        pool), ``held_out_loss``, ``zero_rows``, ``zero_entries`` (means over the folds) and
        ``epoch``; and ``epochs`` in all.

    Raises:
        UserError: see `group_folds`.
    """
    parts = group_folds(groups, folds, targets=clips.targets.cpu().numpy(), seed=seed)
    fit = fit_folds(
        clips,
        [torch.from_numpy(train) for train, _ in parts],
        replace(fusion, lambda2=lambda2, lambda3=lambda3),
        seed=seed,
        held_out=(clips, [torch.from_numpy(held) for _, held in parts]),
        multi_label=multi_label,
        on_epoch=_with_best(on_epoch, fusion),
    )
    return {**fit.best, "epochs": float(len(fit.history))}


def _with_best(on_epoch: OnEpoch | None, fusion: FusionSettings) -> OnEpoch | None:
    if on_epoch is None:
        return None
    best: dict[str, float] = {}

    def report(epoch: int, metrics: dict[str, float]) -> None:
        if not best or rank(metrics, fusion) > rank(best, fusion):
            best.update(metrics)
        so_far = {
            "best_score": best["score"],
            "best_loss": best["held_out_loss"],
            "best_epoch": best["epoch"],
            "best_zero_rows": best["zero_rows"],
            "best_zero_entries": best["zero_entries"],
            "rank_value": rank(best, fusion)[0],
        }
        on_epoch(epoch, {**metrics, **so_far})

    return report


def search_plan(
    clips: FusionClips,
    groups: NDArray[np.generic],
    settings: SearchSettings,
    fusion: FusionSettings,
    *,
    seed: int,
    multi_label: bool,
) -> dict[str, Any]:
    """All that decides a search's result, as JSON can hold it; the clips by a digest.

    How many points run at once and on what is not part of it: a search may go on elsewhere.
    """
    digest = hashlib.blake2b("\n".join(map(str, groups)).encode(), digest_size=16)
    for name, values in clips.features.items():
        there = clips.present[name]
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(there.cpu().numpy().tobytes())
        digest.update(values[there].cpu().contiguous().numpy().tobytes())
    digest.update(clips.targets.cpu().contiguous().numpy().tobytes())
    search = asdict(settings)
    for name in ("concurrent", "cpus_per_trial", "gpus_per_trial"):
        del search[name]
    return {
        **{f"search.{name}": value for name, value in search.items()},
        **{f"fusion.{name}": value for name, value in asdict(fusion).items()},
        "seed": seed,
        "multi_label": multi_label,
        "clips": digest.hexdigest(),
    }

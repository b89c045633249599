"""Cross-validation of the fusion network, the objective of the search for lambda2 and lambda3."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from actors.neutral import is_neutral
from trainers.fit.folds import group_folds
from trainers.fusion.contract import OnEpoch
from trainers.fusion.training import fit_folds, rank
from trainers.settings import FusionSettings
from trainers.table import Table
from tuning.settings import SearchSettings


def cross_validate(
    table: Table,
    fusion: FusionSettings,
    *,
    lambda2: float,
    lambda3: float,
    folds: int,
    seed: int,
    on_epoch: OnEpoch | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Cross-validates the fusion network at one point.

    Args:
        table: the training clips.
        fusion: settings of the network; its lambda2 and lambda3 are ignored.
        lambda2: weight of the row norm.
        lambda3: weight of the absolute entries.
        folds: number of folds; all are trained in lockstep.
        seed: seed of folds, weights and order of the clips.
        on_epoch: called after each epoch with its measures and those of the best epoch so far:
            ``best_score``, ``best_loss``, ``best_epoch``, ``best_zero_rows``,
            ``best_zero_entries`` and ``rank_value``, the objective of the search, which is
            maximized: the score, or with ``fusion.keep="loss"`` the negative squared error.
        device: device of the training.

    Returns:
        Measures of the best epoch by `trainers.fusion.training.rank`: ``score`` (over the pool of
        all held-out clips), ``held_out_loss``, ``zero_rows``, ``zero_entries`` (means over the
        folds) and ``epoch``; and ``epochs``, the number of epochs.

    Raises:
        UserError: see `group_folds`.
    """
    parts = group_folds(table.groups, folds, targets=table.targets, seed=seed)
    fit = fit_folds(
        table,
        [train for train, _ in parts],
        replace(fusion, lambda2=lambda2, lambda3=lambda3),
        seed=seed,
        held_out=(table, [held for _, held in parts]),
        on_epoch=_with_best(on_epoch, fusion),
        device=device,
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
    table: Table, settings: SearchSettings, fusion: FusionSettings, *, seed: int
) -> dict[str, Any]:
    """Returns everything that determines a search's result, as plain values.

    Settings of resources are left out, so that a search may continue on other machines.

    Args:
        table: the training clips; the plan has their digest.
        settings: settings of the search.
        fusion: settings of the network.
        seed: seed of the search.
    """
    return {
        **{f"search.{name}": value for name, value in _lasting(settings).items()},
        **{f"fusion.{name}": value for name, value in _lasting(fusion).items()},
        "seed": seed,
        "multi_label": table.multi_label,
        "clips": _digest(table),
    }


def _lasting(settings: SearchSettings | FusionSettings) -> dict[str, Any]:
    """The settings that results depend on, by name; see `actors.neutral`."""
    values = asdict(settings)
    return {one.name: values[one.name] for one in fields(settings) if not is_neutral(one)}


def _digest(table: Table) -> str:
    """Returns a digest of groups, features, presence and targets."""
    digest = hashlib.blake2b("\n".join(map(str, table.groups)).encode(), digest_size=16)
    for name, values in table.features.items():
        there = table.present[name]
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(there.tobytes())
        digest.update(values[there].tobytes())
    targets = table.targets
    digest.update(f"{targets.n_classes}".encode())
    digest.update(targets.offsets.tobytes())
    digest.update(targets.indices.tobytes())
    return digest.hexdigest()

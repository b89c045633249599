"""Batches of a table's clips for networks that are trained side by side, one per fold."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.table import Table

__all__ = ["TableTensors", "batches", "hide_streams"]

Streams = dict[str, Tensor]


class TableTensors:
    """A table's features on a device; targets stay sparse, and are made dense batch by batch.

    Args:
        table: N clips.
        device: where the tensors are.
    """

    def __init__(self, table: Table, device: torch.device) -> None:
        self.targets, self.device = table.targets, device
        self.features = {
            name: _tensor(values).float().to(device) for name, values in table.features.items()
        }
        self.present = {name: _tensor(there).to(device) for name, there in table.present.items()}

    def gather(self, rows: Tensor) -> tuple[Streams, Streams]:
        """Stream -> (M, B, D) float32 and stream -> (M, B) bool of (M, B) rows."""
        rows = rows.to(self.device)
        return (
            {name: values[rows] for name, values in self.features.items()},
            {name: there[rows] for name, there in self.present.items()},
        )

    def gather_targets(self, rows: Tensor) -> Tensor:
        """(M, B, C) float32 of 0 and 1 of (M, B) rows."""
        chosen = self.targets[rows.reshape(-1).numpy()]
        dense = torch.zeros(rows.numel() * chosen.n_classes, device=self.device)
        dense[torch.from_numpy(chosen.places()).to(self.device)] = 1.0
        return dense.view(*rows.shape, chosen.n_classes)


def _tensor(values: NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        # Arrays in Ray's shared memory are read-only; nothing writes to the tensors made of them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(values)


def batches(
    training: Sequence[Tensor], size: int, generators: Sequence[torch.Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (M, B) rows and (M, B) weights, which sum to 1 for each member.

    Each member gets each of its clips once. Folds differ by some clips, so their batches do too:
    the shorter are filled up with a clip of weight 0.

    Args:
        training: for each of the M members, (n,) rows that train it.
        size: most clips in a batch, B.
        generators: of the order, one per member.
    """
    steps = -(-max(len(rows) for rows in training) // size)
    orders = [
        torch.tensor_split(rows[torch.randperm(len(rows), generator=generator)], steps)
        for rows, generator in zip(training, generators, strict=True)
    ]
    for parts in zip(*orders, strict=True):
        longest = max(len(part) for part in parts)
        rows = torch.zeros(len(parts), longest, dtype=torch.long)
        share = torch.zeros(len(parts), longest)
        for member, part in enumerate(parts):
            rows[member, : len(part)] = part
            share[member, : len(part)] = 1 / max(len(part), 1)
        yield rows, share


def hide_streams(present: Streams, chance: float, generators: Sequence[torch.Generator]) -> Streams:
    """Hides streams at random; a clip that would have none left keeps those it has.

    Args:
        present: stream -> (M, B) bool.
        chance: of hiding a stream of a clip.
        generators: one per member.
    """
    there = torch.stack(list(present.values()), dim=1)
    drawn = torch.stack([torch.rand(there.shape[1:], generator=one) for one in generators])
    kept = there & (drawn.to(there.device) >= chance)
    kept = torch.where(kept.any(1, keepdim=True), kept, there)
    return dict(zip(present, kept.unbind(1), strict=True))

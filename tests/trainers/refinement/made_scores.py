"""Made scores of systems that know the class more or less, as tables."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from trainers.refinement.score_streams import score_table
from trainers.table import Table
from trainers.targets import Targets


def made(
    n: int = 60, classes: int = 4, groups: int = 10, *, seed: int = 0, systems: int = 2,
    noise: float = 1.5, multi_label: bool = False, confused: float = 0.0,
) -> Table:  # fmt: skip
    """A table of logits; classes 0 and 1 look like one another as far as ``confused``."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    targets = np.eye(classes, dtype=bool)[labels]
    if multi_label:
        targets |= random.random((n, classes)) < 0.2
    seen = 2.0 * targets
    seen[:, :2] = (1 - confused) * seen[:, :2] + confused * seen[:, 1::-1]
    scores = {f"system{s}": seen + noise * random.normal(size=(n, classes)) for s in range(systems)}
    scores["system0"][: n // 10] = np.nan
    known = Targets.from_dense(targets, multi_label=multi_label)
    return score_table(scores, known, groups=np.arange(n) % groups)


def learnable(*, seed: int = 0, multi_label: bool = False, noise: float = 0.7) -> Table:
    """What the systems say of classes 2 and 3 tells classes 0 and 1 apart."""
    table = made(n=120, seed=seed, noise=noise, confused=0.5, multi_label=multi_label)
    told = np.eye(4)[[2, 3, 2, 3]]
    truth = table.targets.dense()
    scores = {
        name: np.where(there[:, None], table.features[name] + 1.5 * truth @ told, np.nan)
        for name, there in table.present.items()
    }
    return score_table(scores, table.targets, groups=table.groups)


def fitted_fields(method: type) -> set[str]:
    """Names of what `fit` sets, which can't be passed."""
    return {field.name for field in fields(method) if not field.init}

"""Made clips with known structure, which the tests of all compared methods share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainers.table import Table
from trainers.targets import Targets


def make(
    n: int = 120,
    *,
    seed: int = 0,
    absent: float = 0.0,
    noise: float = 0.6,
    multi_label: bool = False,
) -> Table:
    """Four classes: stream "a" tells one bit, stream "b" the other; features of 0 and more."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (n, 2))
    streams = {}
    for index, (name, width) in enumerate((("a", 12), ("b", 9))):
        center = np.random.default_rng(index).random((2, width)) * 2
        values = center[bits[:, index]] + noise * random.standard_normal((n, width))
        streams[name] = np.maximum(values, 0)
    targets = bits.astype(float) if multi_label else np.eye(4)[bits @ [2, 1]]
    present = {name: random.random(n) >= absent for name in streams}
    present["a"] |= ~present["b"]
    return Table.of(
        streams,
        present,
        Targets.from_dense(targets, multi_label=multi_label),
        groups=np.arange(n) // 2,
    )


def split(made: Table, share: float = 0.6) -> tuple[Table, Table]:
    cut = int(len(made.groups) * share)
    return made.part(np.arange(cut)), made.part(np.arange(cut, len(made.groups)))


def accuracy(scores: NDArray, made: Table) -> float:
    return float((scores.argmax(1) == made.targets.classes()).mean())

"""Made clips with known structure, which the tests of all compared methods share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Made:
    features: dict[str, NDArray]
    present: dict[str, NDArray]
    targets: NDArray
    groups: NDArray

    def part(self, rows: NDArray) -> Made:
        return Made(
            {name: values[rows] for name, values in self.features.items()},
            {name: values[rows] for name, values in self.present.items()},
            self.targets[rows],
            self.groups[rows],
        )

    @property
    def fit(self) -> tuple:
        return self.features, self.present, self.targets, self.groups

    @property
    def score(self) -> tuple:
        return self.features, self.present


def make(
    n: int = 120,
    *,
    seed: int = 0,
    absent: float = 0.0,
    noise: float = 0.6,
    multi_label: bool = False,
) -> Made:
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
    return Made(streams, present, targets, np.arange(n) // 2)


def split(made: Made, share: float = 0.6) -> tuple[Made, Made]:
    cut = int(len(made.groups) * share)
    return made.part(np.arange(cut)), made.part(np.arange(cut, len(made.groups)))


def accuracy(scores: NDArray, made: Made) -> float:
    return float((scores.argmax(1) == made.targets.argmax(1)).mean())

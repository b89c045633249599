"""What a task learns from: clips with an artifact (or an embedding) and their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from actors.errors import UserError


@dataclass(frozen=True)
class Example:
    """One clip of one stream."""

    id: str
    """The video's id."""
    artifact: str
    """Path or URI of the safetensors file: an artifact, or for sequences an embedding."""
    targets: tuple[int, ...]
    """Its classes' numbers; single-label data have exactly one."""
    split: str
    """train, val or test."""


def split_examples(
    examples: Sequence[Example], *, what: str
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples, each in the order of their ids.

    Raises:
        UserError: nothing to learn from.
    """
    ordered = sorted(examples, key=lambda example: example.id)
    train = [example for example in ordered if example.split == "train"]
    if not train:
        raise UserError(
            f"no training clip has what {what} needs: of {len(examples)} clips none is in the "
            "split 'train'"
        )
    return train, [example for example in ordered if example.split == "val"]


def draw_examples(n: int, count: int, *, step: int, seed: int) -> list[int]:
    """The examples of a step: `count` from the sequence of all epochs' permutations of n."""
    first = step * count
    places = range(first, first + count)
    return [int(_permutation(n, seed, place // n)[place % n]) for place in places]


@lru_cache(maxsize=16)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, n]).permutation(n)

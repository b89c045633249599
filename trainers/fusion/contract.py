"""What every fusion gives: a model from the streams' features to class scores. Light to import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "FusionModel", "OnEpoch", "Vectors"]

Floats = NDArray[np.float32]
Vectors = Mapping[str, NDArray[Any]]
"""Stream -> an array with a row per clip."""

OnEpoch = Callable[[int, dict[str, float]], None]
"""Called with an epoch, from 1, and its measures."""


class FusionModel(ABC):
    """A fitted fusion.

    A fusion of a user's own is a function that fits one::

        def my_fusion(
            table: Table, settings: FusionSettings, *, seed: int, validation: Table | None
        ) -> MyModel: ...

    named in ``fusion.model`` as ``package.module:my_fusion``; MyModel derives from this class.
    """

    widths: dict[str, int]
    """Stream -> width of its features, of all streams that the model was fitted on."""
    n_classes: int
    multi_label: bool

    @abstractmethod
    def scores_and_embeddings(self, features: Vectors, present: Vectors) -> tuple[Floats, Floats]:
        """Class probabilities and joint representations of clips.

        Args:
            features: stream -> (N, D) float32 of all streams that the model was fitted on; the
                rows of absent streams are zero.
            present: stream -> (N,) bool. Every clip has at least one stream.

        Returns:
            (N, C) probabilities that sum to 1 in each row, or of multi-label clips each in 0..1
            by itself; and (N, E) representations.
        """

    def scores(self, features: Vectors, present: Vectors) -> Floats:
        """The first of `scores_and_embeddings`."""
        return self.scores_and_embeddings(features, present)[0]

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The model as a file's content, without pickle."""

    @classmethod
    @abstractmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The model that `to_bytes` wrote."""

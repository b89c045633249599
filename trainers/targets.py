"""Classes of clips in sparse form: memory grows with the labels, not with clips times classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["Targets", "check_trained_for", "shown"]

Index = NDArray[Any] | slice


@dataclass(frozen=True, eq=False)
class Targets:
    """The classes of N clips, as compressed sparse rows.

    Made by `of`, `from_dense`, `from_classes` or `unlabeled`, which check.

    Args:
        indices: (L,) int32 class indices of all labels, clip after clip, ascending in each clip.
        offsets: (N + 1,) int64; the labels of clip n are ``indices[offsets[n]:offsets[n + 1]]``.
        n_classes: C.
        multi_label: a clip may have any number of classes; else it has one, or none where its
            class is unknown.
    """

    indices: NDArray[np.int32]
    offsets: NDArray[np.int64]
    n_classes: int
    multi_label: bool = False

    @classmethod
    def of(
        cls, rows: Sequence[Sequence[int]], n_classes: int, *, multi_label: bool = False
    ) -> Targets:
        """Targets from the class indices of each clip, in any order and without repetition.

        Raises:
            ValueError: an index outside of 0..C - 1 or given twice for one clip, or several labels
                of a single-label clip.
        """
        counts = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        flat = np.fromiter((index for row in rows for index in row), np.int64, int(counts.sum()))
        clip = np.repeat(np.arange(len(rows)), counts)
        wrong = np.unique(clip[(flat < 0) | (flat >= n_classes)])
        if len(wrong):
            raise ValueError(f"class indices must lie in 0..{n_classes - 1}, not so in rows "
                             f"{shown(wrong)}")  # fmt: skip
        flat = flat[np.lexsort((flat, clip))]
        twice = clip[1:][(clip[1:] == clip[:-1]) & (flat[1:] == flat[:-1])]
        if len(twice):
            raise ValueError(f"a class is given twice in rows {shown(np.unique(twice))}")
        return cls._checked(flat, counts, n_classes, multi_label)

    @classmethod
    def from_dense(cls, targets: ArrayLike, *, multi_label: bool = False) -> Targets:
        """Targets from an (N, C) array of 0 and 1 of any type.

        Raises:
            ValueError: other shapes or values, or several labels of a single-label clip.
        """
        dense = np.asarray(targets)
        if dense.ndim != 2:
            raise ValueError(f"targets must be (N, C), got {dense.shape}")
        wrong = np.flatnonzero(~((dense == 0) | (dense == 1)).all(1))
        if len(wrong):
            raise ValueError(f"targets must be 0 or 1, not so in rows {shown(wrong)}")
        clips, indices = np.nonzero(dense)
        counts = np.bincount(clips, minlength=len(dense))
        return cls._checked(indices, counts, dense.shape[1], multi_label)

    @classmethod
    def from_classes(cls, classes: ArrayLike, n_classes: int) -> Targets:
        """Single-label targets from (N,) class indices.

        Raises:
            ValueError: another shape or type, or an index outside of 0..C - 1.
        """
        indices = np.asarray(classes)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise ValueError(f"classes must be (N,) integers, got {indices.dtype} {indices.shape}")
        wrong = np.flatnonzero((indices < 0) | (indices >= n_classes))
        if len(wrong):
            raise ValueError(f"class indices must lie in 0..{n_classes - 1}, not so in rows "
                             f"{shown(wrong)}")  # fmt: skip
        return cls._checked(indices, np.ones(len(indices), np.int64), n_classes, False)

    @classmethod
    def unlabeled(cls, n: int, n_classes: int = 0, *, multi_label: bool = False) -> Targets:
        """Targets of N clips of which no class is known."""
        return cls._checked(np.zeros(0), np.zeros(n, np.int64), n_classes, multi_label)

    @classmethod
    def _checked(
        cls, indices: NDArray[Any], counts: NDArray[Any], n_classes: int, multi_label: bool
    ) -> Targets:
        several = np.flatnonzero(counts > 1)
        if not multi_label and len(several):
            raise ValueError(
                f"clips at rows {shown(several)} have several labels; pass multi_label=True"
            )
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return cls(indices.astype(np.int32), offsets, n_classes, multi_label)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,) labels of each clip."""
        return np.diff(self.offsets)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """(C,) clips of each class."""
        return np.bincount(self.indices, minlength=self.n_classes)

    def shares(self) -> NDArray[np.float64]:
        """(C,) share of the clips that have the class."""
        return self.class_counts / len(self)

    def __getitem__(self, rows: Index) -> Targets:
        """Some clips, by indices, mask or slice, in the order given."""
        chosen = np.arange(len(self))[rows]
        counts = self.counts[chosen]
        offsets = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return Targets(self.indices[places], offsets, self.n_classes, self.multi_label)

    def places(self) -> NDArray[np.int64]:
        """(L,) positions of the ones in the flattened (N, C) array."""
        return np.repeat(np.arange(len(self)) * self.n_classes, self.counts) + self.indices

    def dense(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """(N, C) of 0 and 1; of many classes only for a few clips at a time."""
        dense = np.zeros((len(self), self.n_classes), dtype)
        dense.reshape(-1)[self.places()] = 1
        return dense

    def classes(self) -> NDArray[np.int64]:
        """(N,) class of each single-label clip.

        Raises:
            ValueError: multi-label targets, or clips without a label.
        """
        if self.multi_label:
            raise ValueError("multi-label clips have no single class each")
        none = np.flatnonzero(self.counts == 0)
        if len(none):
            raise ValueError(f"clips at rows {shown(none)} have no label")
        return self.indices.astype(np.int64)

    def truth(self) -> NDArray[Any]:
        """What the measures take: (N,) classes, or (N, C) booleans of multi-label clips."""
        return self.dense(bool) if self.multi_label else self.classes()

    def rarest(self) -> NDArray[np.int64]:
        """(N,) of each clip's classes the one with the fewest clips; -1 without any label.

        Of equally rare ones it is the lowest index.
        """
        clips = np.repeat(np.arange(len(self)), self.counts)
        order = np.lexsort((self.indices, self.class_counts[self.indices], clips))
        found = np.full(len(self), -1, np.int64)
        labeled = self.counts > 0
        found[labeled] = self.indices[order[self.offsets[:-1][labeled]]]
        return found


def check_trained_for(
    what: str, n_classes: int, multi_label: bool, wanted: int, wants_multi_label: bool
) -> None:
    """Checks that a part of a model was trained on targets of the model's kind.

    Args:
        what: the part, for the message.
        n_classes, multi_label: of the part's own targets.
        wanted, wants_multi_label: of the model's.

    Raises:
        ValueError: the number of classes or the kind differs.
    """
    if n_classes != wanted:
        raise ValueError(
            f"{what} has {n_classes} classes, the model has {wanted}; train it again on the "
            "model's classes"
        )
    if multi_label != wants_multi_label:
        kinds = {True: "multi-label", False: "single-label"}
        wanted_kind = kinds[wants_multi_label]
        raise ValueError(
            f"{what} was trained on {kinds[multi_label]} clips, the model is {wanted_kind}; train "
            f"it again on {wanted_kind} clips"
        )


def shown(rows: Sequence[int] | NDArray[np.integer]) -> str:
    """The first few of a list of rows, for a message."""
    text = ", ".join(str(row) for row in list(rows)[:5])
    return text if len(rows) <= 5 else f"{text}, ... ({len(rows)} in all)"

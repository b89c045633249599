"""The measures of `trainers.metrics.measures` batch by batch, for sets too large for memory.

Each has ``update`` (the next batch), ``merge`` (another accumulator's videos) and ``compute``,
which gives the function's value whatever the batches and their order. What has to see all scores at
once (GAP, mAP) keeps them in a temporary file beyond a set size; as long as nothing is there, an
accumulator also comes over from another process to be merged. If the file can't be written, the
error is raised and the accumulator is closed: it gives no value any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from trainers.metrics.measures import (
    Ints,
    MeanAveragePrecision,
    average_precision,
    check_multi_label,
    check_single_label,
    confusion_matrix,
    mean_precision,
    mean_recall,
    precision_at_equal_recall,
    top_k,
)
from trainers.metrics.score_spill import MEMORY, ClassScores, Kept, RankedScores


@dataclass
class HitAtK:
    """Accumulates `hit_at_k`; of single-label videos with k = 1 that is `accuracy`."""

    k: int = 1
    hits: int = 0
    videos: int = 0

    def update(self, scores: ArrayLike, truth: ArrayLike) -> Self:
        scores, targets = check_multi_label(scores, truth)
        found = np.take_along_axis(targets, top_k(scores, self.k), axis=1).any(1)
        self.hits, self.videos = self.hits + int(np.sum(found)), self.videos + len(scores)
        return self

    def merge(self, other: Self) -> Self:
        _same("k", self.k, other.k)
        self.hits, self.videos = self.hits + other.hits, self.videos + other.videos
        return self

    def compute(self) -> float:
        """The share of videos; ValueError without any."""
        return self.hits / _some(self.videos)


@dataclass
class PrecisionAtEqualRecall:
    """Accumulates `precision_at_equal_recall`."""

    total: float = 0.0
    videos: int = 0

    def update(self, scores: ArrayLike, targets: ArrayLike) -> Self:
        scores, targets = check_multi_label(scores, targets)
        self.total += precision_at_equal_recall(scores, targets) * len(scores)
        self.videos += len(scores)
        return self

    def merge(self, other: Self) -> Self:
        self.total, self.videos = self.total + other.total, self.videos + other.videos
        return self

    def compute(self) -> float:
        """PERR; ValueError without any video."""
        return self.total / _some(self.videos)


@dataclass
class Confusions:
    """Accumulates the confusion matrix of single-label videos, (C, C) counts, rows the truth."""

    n_classes: int
    matrix: Ints = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        if not self.matrix.size:
            self.matrix = np.zeros((self.n_classes, self.n_classes), np.int64)

    def update(self, scores: ArrayLike, labels: ArrayLike) -> Self:
        scores, labels = check_single_label(scores, labels)
        self.matrix = self.matrix + confusion_matrix(scores.argmax(1), labels, self.n_classes)
        return self

    def merge(self, other: Self) -> Self:
        _same("n_classes", self.n_classes, other.n_classes)
        self.matrix = self.matrix + other.matrix
        return self

    def compute(self) -> Ints:
        return self.matrix

    @property
    def accuracy(self) -> float:
        """See the function; ValueError without any video."""
        return int(np.trace(self.matrix)) / _some(int(self.matrix.sum()))

    @property
    def mean_class_accuracy(self) -> float:
        """See the function; ValueError without any video."""
        _some(int(self.matrix.sum()))
        return mean_recall(self.matrix)


class _Spilled:
    """An accumulator that keeps scores, in the end in a temporary file."""

    kept: Kept

    def close(self) -> None:
        """Lets the scores and their file go, as the end of a ``with`` or of the object does."""
        self.kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GapAtK(_Spilled):
    """Accumulates `gap_at_k`.

    Of each video k scores are kept, each with how many entries share it and how many of these are
    marked: 24 k bytes, fewer on disk where scores are equal. Beyond ``memory`` they go to a
    temporary file, in sorted runs that `compute` merges, so that memory does not grow with the
    videos.

    Args:
        k: best classes of each video.
        memory: bytes held at most, but for a few copies of one batch.
        folder: of the temporary file, see `score_spill.Spill`.
    """

    kept: RankedScores

    def __init__(
        self, k: int = 20, *, memory: int = MEMORY, folder: str | Path | None = None
    ) -> None:
        self.k, self.positives = k, 0
        self.kept = RankedScores(memory, folder)

    def update(self, scores: ArrayLike, targets: ArrayLike) -> Self:
        scores, targets = check_multi_label(scores, targets)
        best = top_k(scores, self.k)
        self.kept.add(
            np.take_along_axis(scores, best, axis=1).ravel(),
            np.take_along_axis(targets, best, axis=1).ravel(),
        )
        self.positives += int(targets.sum())
        return self

    def merge(self, other: Self) -> Self:
        _same("k", self.k, other.k)
        self.kept.extend(other.kept)
        self.positives += other.positives
        return self

    def compute(self) -> float:
        """GAP@k; ValueError without any label."""
        self.kept.spill.check_open()
        _some(self.kept.entries)
        if not self.positives:
            raise ValueError("average precision needs at least one positive, there are none")
        area, seen_before, found_before = 0.0, 0, 0
        for _, entries, gained in self.kept.steps():
            seen = seen_before + np.cumsum(entries)
            found = found_before + np.cumsum(gained)
            area += float(np.sum(gained / self.positives * found / seen))
            seen_before, found_before = int(seen[-1]), int(found[-1])
        return area


class AveragePrecisions(_Spilled):
    """Accumulates `mean_average_precision`.

    What is kept of each video goes to a temporary file beyond ``memory``, sorted by class.
    `compute` reads it class by class: memory grows neither with the classes nor with the videos but
    for the one class at work, some 60 bytes per video that it was kept of.

    Args:
        n_classes: C.
        k: keep each video's k best classes only (9 k bytes per video on disk; what YouTube-8M's
            evaluation does): the other positives still count in the recall, but can't be found.
            None: keep all, 9 C bytes per video, for the exact value.
        memory: bytes held at most, but for a few copies of one batch.
        folder: of the temporary file, see `score_spill.Spill`.
    """

    kept: ClassScores

    def __init__(
        self,
        n_classes: int,
        k: int | None = None,
        *,
        memory: int = MEMORY,
        folder: str | Path | None = None,
    ) -> None:
        self.n_classes, self.k = n_classes, k
        self.positives = np.zeros(n_classes, np.int64)
        self.kept = ClassScores(n_classes, memory, folder)

    def update(self, scores: ArrayLike, truth: ArrayLike) -> Self:
        scores, targets = check_multi_label(scores, truth)
        _same("n_classes", self.n_classes, scores.shape[1])
        self.positives = self.positives + targets.sum(0)
        classes = np.broadcast_to(np.arange(self.n_classes), scores.shape)
        if self.k is not None:
            classes = top_k(scores, self.k)
            scores = np.take_along_axis(scores, classes, axis=1)
            targets = np.take_along_axis(targets, classes, axis=1)
        self.kept.add(classes.ravel().astype(np.int32), scores.ravel(), targets.ravel())
        return self

    def merge(self, other: Self) -> Self:
        _same("n_classes", self.n_classes, other.n_classes)
        _same("k", self.k, other.k)
        self.kept.extend(other.kept)
        self.positives = self.positives + other.positives
        return self

    def compute(self, *, classes: Sequence[str] | None = None) -> MeanAveragePrecision:
        """ValueError without any video."""
        _some(self.kept.entries)
        per_class = np.full(self.n_classes, np.nan)
        for index, scores, relevant in self.kept.columns():
            if self.positives[index]:
                positives = int(self.positives[index])
                per_class[index] = average_precision(scores, relevant, positives)
        return mean_precision(per_class, classes)


class Summary:
    """Accumulates `summary`: the measures that a run reports.

    Args:
        n_classes: C.
        multi_label: whether ``truth`` is (N, C) targets.
        memory: bytes held at most by each measure that has to keep scores.
        folder: of their temporary files, see `score_spill.Spill`.
    """

    def __init__(
        self,
        n_classes: int,
        multi_label: bool,
        *,
        memory: int = MEMORY,
        folder: str | Path | None = None,
    ) -> None:
        self.n_classes, self.multi_label = n_classes, multi_label
        self.precisions = AveragePrecisions(n_classes, memory=memory, folder=folder)
        self.hit_1, self.hit_5 = HitAtK(1), HitAtK(5)
        self.gap = GapAtK(20, memory=memory, folder=folder)
        self.perr = PrecisionAtEqualRecall()
        self.confusions = Confusions(n_classes)

    def _used(self) -> list[tuple[str, _Accumulator]]:
        several = ("hit_1", "gap", "perr") if self.multi_label else ("confusions",)
        return [(name, getattr(self, name)) for name in ("precisions", "hit_5", *several)]

    def update(self, scores: ArrayLike, truth: ArrayLike) -> Self:
        for _, one in self._used():
            one.update(scores, truth)
        return self

    def merge(self, other: Self) -> Self:
        _same("multi_label", self.multi_label, other.multi_label)
        for name, one in self._used():
            one.merge(getattr(other, name))
        return self

    def compute(self) -> dict[str, float]:
        """As `summary` of all videos; ValueError without any."""
        mean_ap, hit_5 = self.precisions.compute().value, self.hit_5.compute()
        if self.multi_label:
            return {
                "score": mean_ap,
                "map": mean_ap,
                "hit_at_1": self.hit_1.compute(),
                "hit_at_5": hit_5,
                "gap_at_20": self.gap.compute(),
                "perr": self.perr.compute(),
            }
        return {
            "score": self.confusions.accuracy,
            "accuracy": self.confusions.accuracy,
            "mean_class_accuracy": self.confusions.mean_class_accuracy,
            "hit_at_5": hit_5,
            "map": mean_ap,
        }

    def close(self) -> None:
        """Lets the temporary files go."""
        self.precisions.close()
        self.gap.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Accumulator(Protocol):
    def update(self, scores: ArrayLike, truth: ArrayLike, /) -> Any: ...

    def merge(self, other: Any, /) -> Any: ...


def _same(name: str, one: object, other: object) -> None:
    if one != other:
        raise ValueError(f"{name} differs: {one} here, {other} there; they don't add up")


def _some(videos: int) -> int:
    if not videos:
        raise ValueError("there are no videos yet: call update first")
    return videos

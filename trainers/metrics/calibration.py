"""Whether a classifier is as often right as it says: reliability curve and calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainers.metrics.measures import as_targets

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predictions by how sure they were, in B bins of equal width over 0..1.

    Args:
        counts: (B,) predictions in each bin.
        confidence: (B,) their mean probability; NaN in an empty bin.
        right: (B,) the share of them that is right; NaN in an empty bin.
    """

    counts: NDArray[np.int64]
    confidence: Floats
    right: Floats

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over predictions of their bin's |right - confidence|."""
        gaps = np.abs(np.nan_to_num(self.right - self.confidence))
        return float((gaps * self.counts).sum() / self.counts.sum())


def reliability(
    scores: ArrayLike, truth: ArrayLike, *, multi_label: bool = False, bins: int = 15
) -> Reliability:
    """The reliability curve (Guo et al., *On calibration of modern neural networks*, ICML 2017).

    Single-label: a prediction is a video's top class with its probability. Multi-label: each class
    of each video is one, right if the label is there.

    Args:
        scores: (N, C) probabilities.
        truth: (N,) labels or (N, C) targets.

    Raises:
        ValueError: scores outside of 0..1, or shapes that do not match.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or not len(scores) or not ((scores >= 0) & (scores <= 1 + 1e-9)).all():
        raise ValueError(f"scores must be (N, C) probabilities within 0..1, got {scores.shape}")
    targets = as_targets(truth, scores.shape[1])
    if targets.shape != scores.shape:
        raise ValueError(f"{len(scores)} rows of scores, {len(targets)} of truth")
    if multi_label:
        sure, right = scores.ravel(), targets.ravel()
    else:
        best = scores.argmax(1)
        rows = np.arange(len(scores))
        sure, right = scores[rows, best], targets[rows, best]
    # A bin holds its upper end: a probability of exactly 0 is in the first, of 1 in the last.
    index = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, weights=sure, minlength=bins) / counts
        share = np.bincount(index, weights=right, minlength=bins) / counts
    return Reliability(counts, confidence, share)

"""The plain mean of several systems' scores (Hybrid paper, section III-D)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def mean_scores(
    scores: Mapping[str, NDArray[np.floating]],
    present: Mapping[str, NDArray[np.bool_]],
    *,
    ids: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """Averages, for each clip, the scores of the systems that have one for it.

    A clip without sound, for example, has no audio score: it is left out of that clip's mean, not
    counted as zero.

    Args:
        scores: system name -> (N, C) scores on a common scale (probabilities). What stands in an
            absent row is not looked at.
        present: system name -> (N,) whether the system has a score for the clip.
        ids: (N,) names of the clips, for the error message.

    Returns:
        (N, C) float64.

    Raises:
        ValueError: no system, shapes or names that do not match, a score that is not finite, or a
            clip that no system has a score for.
    """
    if not scores or set(scores) != set(present):
        raise ValueError(
            f"scores of {sorted(scores)} and presence of {sorted(present)} must name the same "
            "systems, at least one"
        )
    stacked = np.stack([np.asarray(scores[name], np.float64) for name in scores])
    there = np.stack([np.asarray(present[name]).astype(bool) for name in scores])
    if stacked.ndim != 3 or there.shape != stacked.shape[:2]:
        raise ValueError(f"scores {stacked.shape[1:]} and presence {there.shape[1:]} do not match")
    for name, values, rows in zip(scores, stacked, there, strict=True):
        if not np.isfinite(values[rows]).all():
            raise ValueError(f"scores of {name!r} hold NaN or infinity")
    counts = there.sum(0)
    if (counts == 0).any():
        rows = np.flatnonzero(counts == 0)
        named = [ids[row] if ids is not None else f"row {row}" for row in rows[:10]]
        raise ValueError(
            f"{len(rows)} clips have no score from any of {list(scores)}: {', '.join(named)}; "
            "leave them out"
        )
    return np.where(there[..., None], stacked, 0.0).sum(0) / counts[:, None]

"""From an ensemble's decisions to rows that people and programs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import MediaError, UserError
from actors.storage import Storage
from trainers.hybrid import ClipPrediction, Hybrid
from trainers.refinement.fitted import FittedRefinement

Row = dict[str, Any]


def prediction_row(
    hybrid: Hybrid, prediction: ClipPrediction, *, top: int = 3, embeddings: bool = False
) -> Row:
    """One video as plain values.

    Args:
        top: how many classes to name, best first.
        embeddings: whether to give the embedding; else it is empty.

    Returns:
        ``path``; ``label`` and ``probability`` of the best class; ``labels`` and ``probabilities``
        of the ``top`` best; ``share_STREAM`` for every stream of the model (0 where absent);
        ``streams`` that the clip has, joined by commas; ``embedding``; ``error``, empty for a
        video that could be used. For one that could not, all but ``path`` and ``error`` is empty
        or 0.
    """
    decision = prediction.decision
    if decision is None:
        return empty_row(hybrid, prediction.path, ": ".join(prediction.error or ()))
    scores = decision.probabilities
    best = np.argsort(-scores, kind="stable")[: max(1, top)].tolist()
    return {
        "path": prediction.path,
        "label": hybrid.classes[best[0]],
        "probability": float(scores[best[0]]),
        "labels": [hybrid.classes[index] for index in best],
        "probabilities": [float(scores[index]) for index in best],
        **{f"share_{stream}": decision.shares.get(stream, 0.0) for stream in hybrid.streams},
        "streams": ",".join(decision.shares),
        "embedding": decision.embedding.tolist() if embeddings else [],
        "error": "",
    }


def empty_row(hybrid: Hybrid, path: str, error: str) -> Row:
    """The row of a video that can't be used; the path is not told again in the error."""
    for name in (path, str(Path(path).absolute())):
        error = error.replace(f"{name}: ", "", 1)
    return {
        "path": path,
        "label": "",
        "probability": 0.0,
        "labels": [],
        "probabilities": [],
        **{f"share_{stream}": 0.0 for stream in hybrid.streams},
        "streams": "",
        "embedding": [],
        "error": error,
    }


class ClipPredictor:
    """What an actor runs on each video; made once per actor, the networks are loaded once.

    Args:
        model: folder that `Hybrid.save` wrote.
        top: how many classes to name.
        device: ``auto`` takes a GPU that this process sees.
        refinement: content of a refinement's file, to be used instead of the model's own.

    Raises:
        UserError: the model or the refinement can't be read, or the two don't belong together.
    """

    def __init__(
        self, model: Storage, *, top: int, device: str = "auto", refinement: bytes | None = None
    ) -> None:
        self.hybrid = Hybrid.load(model)
        if refinement is not None:
            other = FittedRefinement.from_bytes(refinement)
            try:
                self.hybrid = replace(self.hybrid, refinement=other)
            except ValueError as error:
                raise UserError(f"this model can't use it: {error}") from error
        self._top, self._device = top, device

    def __call__(self, row: Mapping[str, Any]) -> Row:
        """The prediction row of ``row["path"]``, with its embedding.

        Raises:
            MediaError: the video can't be used.
        """
        prediction = self.hybrid.predict_clip(row["path"], device=self._device)
        if prediction.error is not None:
            raise MediaError(*prediction.error)
        return prediction_row(self.hybrid, prediction, top=self._top, embeddings=True)

"""From a system's decisions to rows that people and programs read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import MediaError
from actors.storage import Storage
from trainers.encoders.inference import Precision
from trainers.model_files import load
from trainers.predictor import ClipPrediction, Predictor, refined

PredictionRow = dict[str, Any]
"""One video as plain values; see `prediction_row`."""


def prediction_row(
    predictor: Predictor, prediction: ClipPrediction, *, top: int = 3, embeddings: bool = False
) -> PredictionRow:
    """One video as plain values.

    Args:
        top: how many classes to name, best first.
        embeddings: whether to give the embedding; else it is empty.

    Returns:
        ``path``; ``label`` and ``probability`` of the best class; ``labels`` and ``probabilities``
        of the ``top`` best; ``share_STREAM`` for every stream of the model (0 where absent);
        ``streams`` that the clip has, joined by commas; ``embedding``; ``error``, empty for a
        video that could be used. For one that could not, all fields but ``path`` and ``error``
        are empty or 0.
    """
    decision = prediction.decision
    if decision is None:
        return empty_row(predictor, prediction.path, ": ".join(prediction.error or ()))
    scores = decision.probabilities
    best = np.argsort(-scores, kind="stable")[: max(1, top)].tolist()
    return {
        "path": prediction.path,
        "label": predictor.classes[best[0]],
        "probability": float(scores[best[0]]),
        "labels": [predictor.classes[index] for index in best],
        "probabilities": [float(scores[index]) for index in best],
        **{f"share_{stream}": decision.shares.get(stream, 0.0) for stream in predictor.streams},
        "streams": ",".join(decision.shares),
        "embedding": decision.embedding.tolist() if embeddings else [],
        "error": "",
    }


def empty_row(predictor: Predictor, path: str, error: str) -> PredictionRow:
    """The row of a video that can't be used; the error does not repeat the path."""
    for name in (path, str(Path(path).absolute())):
        error = error.replace(f"{name}: ", "", 1)
    return {
        "path": path,
        "label": "",
        "probability": 0.0,
        "labels": [],
        "probabilities": [],
        **{f"share_{stream}": 0.0 for stream in predictor.streams},
        "streams": "",
        "embedding": [],
        "error": error,
    }


class ClipPredictor:
    """What an actor runs on each video; it is made, and its networks are loaded, once per actor.

    Args:
        model: folder that `trainers.model_files.save` wrote.
        top: how many classes to name.
        device: ``auto`` takes a GPU that this process sees.
        precision: of the encoders; see `trainers.predictor.Predictor.predict_clip`.
        refinement: content of a refinement's file, to be used instead of the model's own.

    Raises:
        UserError: the model or the refinement can't be read, or they do not match.
    """

    def __init__(
        self,
        model: Storage,
        *,
        top: int,
        device: str = "auto",
        precision: Precision | None = None,
        refinement: bytes | None = None,
    ) -> None:
        loaded = load(model)
        self.predictor = loaded if refinement is None else refined(loaded, refinement)
        self._top, self._device, self._precision = top, device, precision

    def __call__(self, row: Mapping[str, Any]) -> PredictionRow:
        """The prediction row of ``row["path"]``, with its embedding.

        Raises:
            MediaError: the video can't be used.
        """
        prediction = self.predictor.predict_clip(
            row["path"], device=self._device, precision=self._precision
        )
        if prediction.error is not None:
            raise MediaError(*prediction.error)
        return prediction_row(self.predictor, prediction, top=self._top, embeddings=True)

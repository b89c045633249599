"""The registered model: MLflow runs this file to make it (models-from-code, nothing pickled).

It needs nothing of the checkout: `trainers` and `actors` travel with the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from trainers.hybrid import ClipPrediction, Hybrid


class HybridModel(PythonModel):
    """Paths of videos in, classes out.

    Input: a list of paths, or a table with the single column ``path``. Parameters: ``top_k``
    (classes per video), ``embeddings`` (whether to give them), ``device``.
    """

    def load_context(self, context: PythonModelContext) -> None:
        self.hybrid = Hybrid.load(context.artifacts["hybrid"])

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One row per path, in order; a file that can't be used has the reason in ``error``."""
        options = {"top_k": 3, "embeddings": False, "device": "cpu", **(params or {})}
        rows = [
            _row(self.hybrid, one, top_k=options["top_k"], embeddings=options["embeddings"])
            for one in self.hybrid.predict(_paths(model_input), device=options["device"])
        ]
        return pd.DataFrame(rows)


def _paths(model_input: Any) -> list[str]:
    """MLflow makes a table with one column out of whatever is given."""
    if not isinstance(model_input, pd.DataFrame):
        return [str(path) for path in model_input]
    column = model_input.columns[0]
    if isinstance(column, str) and column != "path":
        raise ValueError(f"the column is called {column!r}; give the videos' paths in 'path'")
    return [str(path) for path in model_input[column]]


def _row(hybrid: Hybrid, one: ClipPrediction, *, top_k: int, embeddings: bool) -> dict[str, Any]:
    scores, shares = np.zeros(0), {}
    best: list[int] = []
    embedding: list[float] = []
    if one.decision is not None:
        scores, shares = one.decision.probabilities, one.decision.shares
        best = np.argsort(-scores, kind="stable")[: max(1, top_k)].tolist()
        embedding = one.decision.embedding.tolist() if embeddings else []
    return {
        "path": one.path,
        "label": hybrid.classes[best[0]] if best else "",
        "probability": float(scores[best[0]]) if best else 0.0,
        "labels": [hybrid.classes[i] for i in best],
        "probabilities": [float(scores[i]) for i in best],
        **{f"share_{stream}": float(shares.get(stream, 0.0)) for stream in hybrid.streams},
        "embedding": embedding,
        "error": ": ".join(one.error or ()),
    }


set_model(HybridModel())

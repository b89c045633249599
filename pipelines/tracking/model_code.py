"""The registered model: MLflow runs this file to make it (models-from-code, nothing pickled).

It does not need the checkout: `trainers` and `actors` are stored with the model.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from trainers.model_files import load
from trainers.prediction import prediction_row


class SystemModel(PythonModel):
    """Predicts classes from paths of videos.

    Input: a list of paths, or a table with the single column ``path``. Parameters: ``top_k``
    (classes per video), ``embeddings`` (whether to give them), ``device`` (``auto`` takes a GPU
    if there is one), ``precision`` of the encoders (``fp32``, ``bf16``, ``auto``; empty: that of
    training).
    """

    def load_context(self, context: PythonModelContext) -> None:
        self.predictor = load(context.artifacts["system"])

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One row per path, in order; a file that cannot be used has the reason in ``error``."""
        options = {"top_k": 3, "embeddings": False, "device": "auto", **(params or {})}
        top, embeddings = options["top_k"], options["embeddings"]
        predictions = self.predictor.predict(
            _paths(model_input),
            device=options["device"],
            precision=options.get("precision") or None,
        )
        return pd.DataFrame(
            prediction_row(self.predictor, one, top=top, embeddings=embeddings)
            for one in predictions
        )


def _paths(model_input: Any) -> list[str]:
    """MLflow converts its input to a table with one column."""
    if not isinstance(model_input, pd.DataFrame):
        return [str(path) for path in model_input]
    column = model_input.columns[0]
    if isinstance(column, str) and column != "path":
        raise ValueError(f"the column is called {column!r}; give the videos' paths in 'path'")
    return [str(path) for path in model_input[column]]


set_model(SystemModel())

"""The registered model: MLflow runs this file to make it (models-from-code, nothing pickled).

It needs nothing of the checkout: `trainers` and `actors` travel with the model.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from trainers.hybrid import Hybrid
from trainers.prediction import prediction_row


class HybridModel(PythonModel):
    """Paths of videos in, classes out.

    Input: a list of paths, or a table with the single column ``path``. Parameters: ``top_k``
    (classes per video), ``embeddings`` (whether to give them), ``device`` (``auto`` takes a GPU
    if there is one).
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
        options = {"top_k": 3, "embeddings": False, "device": "auto", **(params or {})}
        rows = [
            prediction_row(self.hybrid, one, top=options["top_k"], embeddings=options["embeddings"])
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


set_model(HybridModel())

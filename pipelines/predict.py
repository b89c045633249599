#!/usr/bin/env python3
"""Job: names the classes of videos by a trained model.

    pipelines/predict.py VIDEO... | FOLDER | MANIFEST [--model models:/multiclue@champion]

A manifest is a CSV or Parquet table with a column `path`. Of each video the best classes are
shown, and each stream's share: by how much the best class would fall without it. A video that
can't be used keeps its row in the output: `error` says why, `label` is empty, and its scores are
null (in CSV: empty).
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start

    start("pipelines.predict", "pipelines.cli.command_line:read_prediction", __doc__)

from pipelines.cli.command_line import AskedPrediction
from pipelines.steps.console import Console
from pipelines.steps.predict import predict


def main(asked: AskedPrediction) -> None:
    """Runs this job."""
    predict(asked.inputs, asked.settings, Console())

#!/usr/bin/env python3
"""Job: from labeled videos to a registered, promoted ensemble.

    pipelines/full.py                                        the demo, on videos it makes
    pipelines/full.py --data PATH --format FORMAT [any setting]

Formats: folders (one per class), csv, ucf101, hmdb51, ccv. The same command after a stop goes on
where it was; after a change of settings it redoes what depends on them.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start

    start("pipelines.full", "pipelines.cli.command_line:read_job", __doc__)

from pipelines.cli.command_line import Asked
from pipelines.evaluate import evaluate
from pipelines.extract import extract
from pipelines.promote import promote_version
from pipelines.report.gather import report
from pipelines.steps.job import open_job
from pipelines.train import train
from pipelines.tune import tune


def main(asked: Asked) -> None:
    """Runs all steps in their order."""
    with open_job(asked.settings, asked.manifest) as job:
        extraction = extract(job)
        trained = train(job, extraction)
        tuned = tune(job, extraction, trained)
        evaluated = evaluate(job, extraction, trained, tuned)
        promotion = promote_version(job, evaluated.version)
        report(job, extraction, trained, tuned, evaluated, promotion)

#!/usr/bin/env python3
"""Job: from labeled videos to a registered, promoted model.

    pipelines/full.py                                        the demo, on videos it makes
    pipelines/full.py --data PATH --format FORMAT [any setting]

Formats: folders (one per class), csv, ucf101, hmdb51, ccv. The same command after a stop continues
where it was; after a change of settings it runs again what depends on them.
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
from pipelines.report.gather import report
from pipelines.steps.extract import extract
from pipelines.steps.opening import open_job
from pipelines.tracking.promotion import promote_version
from pipelines.tune import tune


def main(asked: Asked) -> None:
    """Runs all jobs in their order; each uses what those before it left."""
    with open_job(asked.settings, asked.manifest) as job:
        extract(job)
        tune(job)  # trains first: the search starts beside the last fits
        evaluated = evaluate(job)
        promotion = promote_version(job, evaluated.version)
        report(job, evaluated, promotion)

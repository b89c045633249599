#!/usr/bin/env python3
"""Job: one pass over each file gives its frames, flow fields and spectrogram.

    pipelines/extract.py --data PATH --format FORMAT [any setting]

Every video ends as an artifact or as a row of the `rejected` table. Artifacts are kept by file and
extraction settings, so other splits, folds and systems use them again.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start

    start("pipelines.extract", "pipelines.cli.command_line:read_job", __doc__)

from pipelines.cli.command_line import Asked
from pipelines.steps.extract import extract
from pipelines.steps.opening import open_job


def main(asked: Asked) -> None:
    """Runs this job."""
    with open_job(asked.settings, asked.manifest) as job:
        extract(job, fits_follow=False)

#!/usr/bin/env python3
"""Job: fits every stream's encoder side by side, embeds the clips, fits the sequence models.

    pipelines/train.py --data PATH --format FORMAT [any setting]

Does what is missing before it (extraction) and nothing after it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start

    start("pipelines.train", "pipelines.cli.command_line:read_job", __doc__)

from pipelines.cli.command_line import Asked
from pipelines.steps.job import Job
from pipelines.steps.opening import open_job
from pipelines.steps.step import StepResult
from pipelines.steps.system import build_system


def train(job: Job) -> Mapping[str, StepResult]:
    """Runs the system's steps up to its encoders and sequence models."""
    system = build_system(job)
    return job.do(system.until("train"))


def main(asked: Asked) -> None:
    """Runs this job, after what it needs."""
    with open_job(asked.settings, asked.manifest) as job:
        train(job)

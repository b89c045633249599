#!/usr/bin/env python3
"""Job: scores the test clips with every part of the system, writes the report, registers it.

    pipelines/evaluate.py --data PATH --format FORMAT [any setting]

Does what is missing before it and nothing after it: the new version becomes the registry's
`challenger`; promotion is a job of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start

    start("pipelines.evaluate", "pipelines.cli.command_line:read_job", __doc__)

from pipelines.cli.command_line import Asked
from pipelines.steps.evaluate import Evaluated, evaluate_system
from pipelines.steps.job import Job
from pipelines.steps.opening import open_job
from pipelines.steps.system import build_system


def evaluate(job: Job) -> Evaluated:
    """Scores, joins, refines and evaluates; then saves and registers the system."""
    system = build_system(job)
    return evaluate_system(job, system, job.do(system.until("evaluate")))


def main(asked: Asked) -> None:
    """Runs this job, after what it needs."""
    from pipelines.report.gather import report

    with open_job(asked.settings, asked.manifest) as job:
        report(job, evaluate(job))

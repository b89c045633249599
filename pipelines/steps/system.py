"""Builds the system that a job's settings name, for the clips that extraction left."""

from __future__ import annotations

from pipelines.steps.extract import extract
from pipelines.steps.given import Given
from pipelines.steps.job import Job
from pipelines.steps.step import System
from pipelines.systems import system_function


def build_system(job: Job) -> System:
    """The system for the usable clips, which are extracted first; built once per job.

    Raises:
        UserError: there is no system of that name.
    """
    if job.system is None:
        extraction = extract(job)
        job.given = Given(
            manifest=job.manifest,
            clips=extraction.clips,
            artifacts=extraction.storage,
            extraction=extraction.fingerprint,
            seed=job.settings.seed,
        )
        job.system = system_function(job.settings.system)(job.settings.system_settings, job.given)
    return job.system

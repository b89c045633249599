"""Environment variables that Ray and MLflow read. Light: set before either is imported."""

from __future__ import annotations

import logging
import os

RAY_ENVIRONMENT = {
    # A worker group is looked at five times a second instead of every two: starts are faster.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Fits resume from their own checkpoints; a process per fit that watches for notices is not
    # worth its start.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Use this environment instead of building one per job when started by `uv run`.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Processes of one step's tasks are kept for the next step's; Ray's default is one second.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "PYTHONWARNINGS": "ignore",
    # A remark on fractional CPUs that the reader can do nothing about.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started",
}
"""How Ray is used, unless the user's environment says otherwise."""

MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow without telemetry, and without lines of its own between a job's."""


def use_ray_quietly() -> None:
    """Sets Ray's variables where the user has not. Some take effect only before Ray's import."""
    _set(RAY_ENVIRONMENT)


def use_mlflow_quietly() -> None:
    """Sets MLflow's variables where the user has not, and leaves it its warnings only.

    Telemetry is decided when MLflow is imported: a program that imports it earlier sets
    MLFLOW_DISABLE_TELEMETRY itself.
    """
    _set(MLFLOW_ENVIRONMENT)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _set(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)

"""What a script does to its process before it becomes a job."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import launch
from pipelines.cli.environment import MLFLOW_ENVIRONMENT, RAY_ENVIRONMENT
from pipelines.cli.launch import ROOT, prepare, use_project_environment


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, import path and levels of loggers are put back after the test."""
    for name in (*RAY_ENVIRONMENT, *MLFLOW_ENVIRONMENT):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mlflow", "alembic"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)


def test_the_environment_is_set_where_the_user_has_not(
    process: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_COLOR_PREFIX", "1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.chdir(tmp_path)
    prepare()
    assert os.environ["RAY_COLOR_PREFIX"] == "1" and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] == "false"
    assert logging.getLogger("mlflow").level == logging.WARNING
    assert sys.path[-1] == str(tmp_path)
    prepare()
    assert sys.path.count(str(tmp_path)) == 1


def test_a_python_without_ray_hands_over_to_the_checkouts_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda file, words: started.append((file, words)))
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["full.py", "--seed", "3"])
    python = tmp_path / ".venv" / "bin" / "python"
    use_project_environment()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    use_project_environment()
    assert not started
    python.parent.mkdir(parents=True)
    python.touch()
    use_project_environment()
    assert started == [(python, [str(python), "full.py", "--seed", "3"])]
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    use_project_environment()
    assert len(started) == 1


def test_a_job_finds_a_system_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Ours:\n"
        "    breadth: int = 7\n    'How broad it is.'\n\ndef ours(settings: Ours, given): ...\n"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "pipelines" / "full.py", "--system", "ours:ours", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--breadth N" in done.stdout and "How broad it is. (default: 7)" in done.stdout

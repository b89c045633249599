"""Provenance of a run: flat settings, versions, commit, user."""

from __future__ import annotations

import getpass
import importlib.metadata
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "torchvision", "torchaudio", "mlflow", "numpy", "numba", "av")


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Turns nested dataclasses and mappings into ``{"a.b.c": value}``."""
    if is_dataclass(settings) and not isinstance(settings, type):
        settings = asdict(settings)
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) or (is_dataclass(value) and not isinstance(value, type)):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def versions() -> dict[str, str]:
    """Versions of Python, Multiclue and the packages whose version may change a result."""
    found = {"python": sys.version.split()[0]}
    for package in ("multiclue", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def source_tags() -> dict[str, str]:
    """MLflow's tags for the user, the program, the versions, and the commit if there is one."""
    tags = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    tags |= {f"version.{name}": version for name, version in versions().items()}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):
        tags["mlflow.user"] = "unknown"  # A container's user may have no name.
    commit = git_commit(Path(__file__).resolve().parents[2])
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def git_commit(root: Path) -> str | None:
    """The commit checked out in ``root``, or None without a checkout or git."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""What docs/architecture.md promises of imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("actors", "trainers", "tuning", "pipelines")
"""Each may import itself and those before it."""


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, at its top or inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way_and_opencv_is_no_part(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    forbidden = {"cv2", *ORDER[ORDER.index(package) + 1 :]}
    wrong = {str(path): found for path in files if (found := imported(path) & forbidden)}
    assert not wrong


def test_what_computes_flow_knows_neither_ray_nor_mlflow() -> None:
    for path in (ROOT / "actors" / "flow").rglob("*.py"):
        assert not imported(path) & {"ray", "mlflow"}, path

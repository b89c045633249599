"""What README.md and the pages in docs/ name exists: functions, files, options."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
API_NAME = re.compile(r"^\| \[`([\w.]+)`\]\(([^)]+)\)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
JOBS = ("full", "compare", "predict", "promote", "refine")
OTHERS = {
    *("--backend-store-uri", "--logdir", "--env-manager"),  # MLflow, TensorBoard
    *("--head", "--working-dir", "--address"),  # Ray
    *("--clips", "--rounds", "--data", "--middlebury", "--markdown"),  # benchmarks/
    *("--video", "--frame", "--images"),  # benchmarks/flow_picture.py
}
"""Options of other programs that the pages show."""
LINK = re.compile(r"\]\(([^)\s]+)\)")


def api_names() -> list[tuple[str, str]]:
    """Each public name of the API page, and the file that it links to."""
    return API_NAME.findall((ROOT / "docs" / "api.md").read_text())


def test_the_api_page_covers_all_packages():
    packages = {name.partition(".")[0] for name, _ in api_names()}
    assert packages == {"actors", "trainers", "tuning", "pipelines"}


@pytest.mark.parametrize(("name", "link"), api_names())
def test_public_names_can_be_imported_and_link_to_their_source(name: str, link: str) -> None:
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    assert value.__doc__, f"{name} has no docstring"
    home = value.__module__.replace(".", "/")
    assert link in (f"../{home}.py", f"../{home}/__init__.py")
    assert (ROOT / "docs" / link).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_point_to_files(page: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(page.read_text())]
    relative = [link for link in links if link and "://" not in link]
    missing = [link for link in relative if not (page.parent / link).exists()]
    assert not missing


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options of all jobs, as --help-all shows them."""
    found = {"__help", "__help_all"}
    for job in JOBS:
        command = [sys.executable, str(ROOT / "pipelines" / f"{job}.py"), "--help-all"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found |= {option.replace("-", "_") for option in OPTION.findall(done.stdout)}
    return found


def test_options_that_the_pages_name_exist(options: set[str]) -> None:
    unknown = {
        (page.name, option)
        for page in PAGES
        if page.name != "CHANGELOG.md"  # which names options of earlier versions
        for option in OPTION.findall(page.read_text())
        if option not in OTHERS and option.replace("-", "_") not in options
    }
    assert not unknown

"""What README.md and the pages in docs/ name exists: functions, files, options."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
API_NAME = re.compile(r"^\| \[`([\w.]+)`\]\(([^)]+)\)", re.MULTILINE)
UNWRITTEN = {"extending.md", "docs/extending.md"}
"""Links to a page that the examples' own change adds."""
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
    missing = {link for link in relative if not (page.parent / link).exists()}
    assert not missing - UNWRITTEN

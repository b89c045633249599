"""What a saved model names outside of the packages that travel with every model."""

from __future__ import annotations

import json
import sys

import pytest

from pipelines.tracking.user_code import installed_packages, user_code
from trainers.model_files import FACTS
from trainers.parts import write_values


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A module, a package and a folder without ``__init__.py``; importing one of them fails."""
    (tmp_path / "my_module.py").write_text("raise RuntimeError")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "my_folder").mkdir()
    (tmp_path / "my_folder" / "parts.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def model(kinds: list[str], **values) -> dict[str, bytes]:
    record = {"parts": [{"kind": kind} for kind in kinds]}
    return {FACTS: json.dumps(record).encode(), "a.safetensors": write_values(values)}


def test_code_of_the_users_own_is_found_and_not_imported(packages):
    files = model(
        ["my_module:Part", "trainers.parts:EmbedPart"],
        settings={"encoder": "my_package.networks:build", "list": [{"x": "my_folder.parts:f"}]},
    )
    assert user_code(files) == [
        str(packages / name) for name in ("my_folder", "my_module.py", "my_package")
    ]
    assert not {"my_module", "my_package", "my_folder"} & set(sys.modules)


@pytest.mark.parametrize(
    "name",
    ["torchvision:vgg19", "own:cnn_m", "subprocess:run", "__main__:Part", "numpy.linalg:norm"],
)
def test_installed_and_unknown_packages_are_left_out(name):
    assert user_code(model([], encoder=name)) == []


def test_installed_packages_are_requirements():
    files = model(["trainers.parts:EmbedPart"], a="torchvision:vgg19", b="own:cnn_m", c="os:system")
    assert installed_packages(files) == ["torchvision"]

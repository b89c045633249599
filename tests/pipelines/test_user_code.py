"""What a saved model names outside of the packages that travel with every model."""

from __future__ import annotations

import json
import sys

import pytest
import safetensors.numpy

from actors.errors import UserError
from pipelines.tracking.user_code import installed_packages, user_code
from trainers.fusion.models import CLASS
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
        settings={"encoder": "my_package.networks:build", "list": [{"model": "my_folder.parts:f"}]},
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


def test_a_folder_called_own_does_not_belong_to_the_own_encoders(packages):
    (packages / "own").mkdir()
    assert user_code(model([], encoder="own:cnn_m")) == []
    assert user_code(model([], samples="own:mine")) == [str(packages / "own")]


def test_installed_packages_are_requirements():
    names = [{"encoder": name} for name in ("torchvision:vgg19", "own:cnn_m", "os:system")]
    files = model(["trainers.parts:EmbedPart"], streams=names)
    assert installed_packages(files) == ["torchvision"]


def test_texts_that_look_like_names_of_code_are_not_taken_for_such(packages):
    values = {"text": "my_module:c", "name": "my_module:d", "kind": "my_folder.parts:e"}
    files = model([], members=["my_package:b"], facts={"my_package:a": 1, **values})
    record = json.loads(files[FACTS]) | {"classes": ["my_module:cat"], "title": "my_package:x"}
    record["parts"] = [{"kind": "trainers.parts:ScorePart", "name": "my_package:y"}]
    assert user_code(files | {FACTS: json.dumps(record).encode()}) == []


def test_the_files_of_encoders_and_fusions_name_code(packages):
    description = {"encoder": {"name": "my_module:build"}}
    files = model([]) | {
        "a.safetensors": safetensors.numpy.save({}, {"description": json.dumps(description)}),
        "b.safetensors": safetensors.numpy.save({}, {CLASS: "my_package.fusion:Mine"}),
    }
    assert user_code(files) == [str(packages / "my_module.py"), str(packages / "my_package")]


def test_a_package_of_several_folders_is_refused(packages, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    (other / "my_folder").mkdir()
    monkeypatch.syspath_prepend(str(other))
    with pytest.raises(UserError, match="'my_folder'.* is several folders .*__init__.py"):
        user_code(model(["my_folder.parts:Part"]))


def test_packages_that_the_user_installed_are_left_out(packages, monkeypatch):
    monkeypatch.setattr("site.getusersitepackages", lambda: str(packages))
    assert user_code(model(["my_module:Part"])) == []


def test_a_folder_twice_on_the_path_is_one_place(packages, monkeypatch):
    monkeypatch.syspath_prepend(f"{packages}/../{packages.name}")
    assert user_code(model(["my_folder.parts:Part"])) == [str(packages / "my_folder")]

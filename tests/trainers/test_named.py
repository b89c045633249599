"""Names of users' functions and classes: found by what they declare, refused otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from actors.errors import UserError
from trainers.named import is_named, name_of, resolve, resolve_class

MODULE = """
from __future__ import annotations
import functools
from subprocess import check_output
from typing import TYPE_CHECKING
import torch
from torch import nn
if TYPE_CHECKING:
    from decimal import Decimal

class Small(nn.Linear):
    pass

def small(width: int) -> Small:
    return Small(width, 2)

def any_module() -> nn.Module:
    return nn.Identity()

@functools.cache
def cached() -> nn.Module:
    return nn.Identity()

def bare(width):
    return Small(width, 2)

def number() -> int:
    return 1

def either() -> nn.Linear | None:
    return None

def hidden() -> Decimal:
    return Decimal(1)

limit = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of a user, importable while the test runs."""
    package = tmp_path / "of_a_user"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "layers.py").write_text(MODULE)
    (package / "broken.py").write_text("import not_installed_anywhere")
    (package / "circular.py").write_text("from of_a_user.layers import nothing_of_that_name")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "of_a_user.layers"
    for name in [name for name in sys.modules if name.partition(".")[0] == "of_a_user"]:
        del sys.modules[name]


def test_functions_are_found_by_their_return_annotation(module: str) -> None:
    assert isinstance(resolve(f"{module}:small", returns=nn.Linear)(3), nn.Linear)
    assert isinstance(resolve(f"{module}:any_module", returns=nn.Module)(), nn.Module)


def test_classes_are_found_by_their_base(module: str) -> None:
    found = resolve_class(f"{module}:Small", nn.Module)
    assert issubclass(found, nn.Linear) and name_of(found) == f"{module}:Small"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("subprocess:check_output", "no return annotation; declare `-> Module`"),
        (
            "os:system",
            "os:system is an object of type builtin_function_or_method, not a Python function",
        ),
        ("of_a_user.layers:check_output", "no return annotation"),
        ("of_a_user.layers:bare", "no return annotation"),
        ("of_a_user.layers:number", "return annotation <class 'int'>; declare `-> Module`"),
        ("of_a_user.layers:either", "return annotation .*Linear | None"),
        ("of_a_user.layers:hidden", "'Decimal' is not defined; import the names"),
        ("of_a_user.layers:Small", "is a class, not a Python function"),
        ("of_a_user.layers:limit", "is an object of type int, not a Python function"),
        ("of_a_user.layers:smal", "has no 'smal'; did you mean 'small'"),
        ("of_a_user.layer:small", "there is no module 'of_a_user.layer'; install its package"),
        ("nowhere_at_all.x:small", "there is no module 'nowhere_at_all'"),
        ("of_a_user.broken:small", "importing of_a_user.broken failed, it needs 'not_installed_a"),
        ("of_a_user.circular:small", "importing of_a_user.circular failed: cannot import name"),
        ("small", "'small' is no name of the form package.module:function"),
        ("of_a_user.layers:Small.forward", "is no name of the form"),
        ("../layers:small", "is no name of the form"),
    ],
)
def test_other_names_are_refused(module: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(name, returns=nn.Module)


def test_other_classes_are_refused(module: str) -> None:
    with pytest.raises(UserError, match="subprocess:Popen is no Module; derive it from torch"):
        resolve_class("subprocess:Popen", nn.Module)
    with pytest.raises(UserError, match="is an object of type function, not a class"):
        resolve_class(f"{module}:small", nn.Module)


def test_a_class_that_no_name_reaches_is_refused() -> None:
    class Local:
        pass

    with pytest.raises(UserError, match="define the class at the top level of a module"):
        name_of(Local)


def test_the_form_of_a_name() -> None:
    assert is_named("a.b_c:d1") and is_named("a:B")
    assert not any(map(is_named, ("", "a", "a:", ":b", "a.:b", "a:b:c", "1a:b", "a b:c", "a:b\n")))

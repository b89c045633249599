"""Systems by name, the user's own included: their settings become options."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.errors import UserError
from pipelines.cli.settings import parse_settings
from pipelines.systems import SYSTEMS, settings_class, system_function
from pipelines.systems.hybrid_settings import HybridSettings
from trainers.streams.settings import StreamSettings

OWN = """
    from __future__ import annotations
    from collections.abc import Mapping
    from dataclasses import dataclass, field
    from typing import TYPE_CHECKING
    from trainers.streams.settings import StreamSettings
    if TYPE_CHECKING:
        from nowhere import Given, System

    @dataclass(frozen=True)
    class Mine:
        alpha: float
        'How strong.'
        streams: Mapping[str, StreamSettings] = field(
            default_factory=lambda: {"look": StreamSettings(encoder="own:vgg_small")}
        )

    @dataclass(frozen=True)
    class Bare:
        steps: int = 3
        rates: Mapping[str, float] = field(default_factory=dict)
        mode: str | int | None = None

    @dataclass(frozen=True)
    class Clash:
        seed: int = 3

    def mine(settings: Mine, given: Given) -> System: ...
    def bare(settings: Bare, given: Given) -> System: ...
    def clash(settings: Clash, given: Given) -> System: ...
    def unknown(settings: Nowhere, given: Given) -> System: ...
    def untyped(settings, given): ...
    constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user's module with systems."""
    (tmp_path / "my_systems.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_systems"
    sys.modules.pop("my_systems", None)


def test_a_system_of_the_user(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--system", f"{own}:mine", "--alpha", "2", "--look.crop", "32"]
    settings = parse_settings("", arguments)
    assert settings.system == f"{own}:mine" and settings.system_settings.alpha == 2.0
    assert settings.streams == {"look": StreamSettings(encoder="own:vgg_small", crop=32)}
    assert parse_settings("", [*arguments, "--preset", "demo"]) == settings
    with pytest.raises(SystemExit):
        parse_settings("", [*arguments, "--help"])
    shown = capsys.readouterr().out
    assert "--alpha X" in shown and "How strong." in shown and "--look.encoder" in shown
    with pytest.raises(UserError, match="--alpha must be given; it takes a number"):
        parse_settings("", arguments[:2])


def test_a_system_without_streams(own: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"system: {own}:bare\nrates: {{a: 1}}")
    settings = parse_settings("", ["--config", str(file), "--steps", "4", "--mode", "5"])
    assert settings.streams == {} and settings.tracks == ()
    values = settings.system_settings
    assert values.rates == {"a": 1.0} and (values.steps, values.mode) == (4, 5)
    with pytest.raises(UserError, match="^there is no option --streams"):
        parse_settings("", ["--config", str(file), "--streams", "x"])


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ("hybird", "there is no system 'hybird'; --system takes hybrid or package.module:function; "
                   "did you mean 'hybrid'?"),
        ("nowhere.at_all:f", "--system nowhere.at_all:f: there is no module 'nowhere'; install its "
                             "package, start the job in the folder that holds it, or put that "
                             "folder on PYTHONPATH"),
        ("my_systems:bar", "--system my_systems:bar: the module my_systems has no 'bar'; did you "
                           "mean 'bare' or 'Bare'?"),
        ("my_systems:constant", "--system my_systems:constant is an object of type int, not a "
                                "Python function"),
        ("my_systems:clash", "Clash.seed: every job has a setting or option seed of its own; give "
                             "the field another name"),
        ("my_systems:unknown", "--system my_systems:unknown: the annotation of its first parameter "
                               "can't be found: name 'Nowhere' is not defined"),
        ("my_systems:untyped", "--system my_systems:untyped: annotate its first parameter with the "
                               "class of its settings, a frozen dataclass, as in "
                               "`def untyped(settings: MySettings, given)`"),
    ],
)  # fmt: skip
def test_systems_that_can_not_be_used(own: str, system: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        parse_settings("", ["--system", system])
    assert str(error.value) == told


def test_a_preset_that_no_system_has(own: str) -> None:
    with pytest.raises(UserError, match="no preset 'papr'; --preset takes demo or paper; did you"):
        parse_settings("", ["--system", f"{own}:bare", "--preset", "papr"])


def test_the_table_of_systems() -> None:
    assert settings_class("hybrid") is HybridSettings
    for name in SYSTEMS:
        assert settings_class(name)().streams
    assert system_function(f"{__name__}:system_here") is system_here


def system_here(settings: HybridSettings) -> None: ...

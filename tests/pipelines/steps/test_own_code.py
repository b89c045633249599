"""Users' own code counts in fingerprints: an edited file runs again what depends on it."""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.neutral import neutral
from pipelines.cli.settings import Settings
from pipelines.steps import evaluate
from pipelines.steps.own_code import code_digests
from pipelines.steps.run import step_fingerprint
from pipelines.steps.step import Step, System
from pipelines.systems.hybrid_settings import HybridSettings
from trainers.settings import FusionSettings
from trainers.streams.settings import StreamSettings


@dataclass(frozen=True)
class Named:
    model: str = "code_models:tiny"
    note: str = neutral("code_notes:text")


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules of the user's; importing one of them fails."""
    (tmp_path / "code_models.py").write_text("raise RuntimeError")
    (tmp_path / "code_notes.py").write_text("raise RuntimeError")
    (tmp_path / "code_package").mkdir()
    (tmp_path / "code_package" / "parts.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("code_package", None)  # looking for its modules imports the folder


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_names_in_settings_stand_for_the_files_of_their_modules(modules):
    wanted = digest("raise RuntimeError")
    assert code_digests(Named()) == {"code_models": wanted}
    nested = {"streams": [StreamSettings(samples="code_package.parts:cut", weights=None)]}
    assert code_digests(nested) == {"code_package.parts": wanted}
    assert not {"code_models", "code_package.parts"} & set(sys.modules)


def test_what_is_no_code_of_the_users_stands_for_nothing(modules):
    assert code_digests(HybridSettings(), None) == {}
    for name in ("timm:test_vit", "own:cnn_m", "subprocess:run", "gone.parts:f"):
        assert code_digests(StreamSettings(encoder=name, weights=None)) == {}
    assert code_digests(Named(model="pipelines.systems.hybrid:hybrid")) == {}
    assert code_digests({"clips": ["code_models:a"], "labels": [["code_models:b"]]}) == {}


def test_functions_stand_for_the_file_that_defines_them(tmp_path, monkeypatch):
    text = "def work(work, other=None):\n    return {}\n"
    (tmp_path / "code_steps.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    work = importlib.import_module("code_steps").work
    wanted = {"code_steps": digest(text)}
    assert code_digests(work) == code_digests(partial(work, other=1)) == wanted
    assert code_digests(partial(code_digests, work)) == wanted
    assert code_digests(code_digests, len) == {}


def test_an_edited_file_makes_another_fingerprint_and_no_other_edit_does(modules):
    def mark(**options):
        return step_fingerprint(Step("fusion", len, **options), {})

    named = {"settings": FusionSettings(model="code_models:near")}
    searched = {"data": {"fusion": FusionSettings(model="code_models:near")}}
    plain = {"settings": FusionSettings()}
    before = [mark(**options) for options in (named, searched, plain)]
    (modules / "code_notes.py").write_text("# edited")
    assert [mark(**options) for options in (named, searched, plain)] == before
    (modules / "code_models.py").write_text("# edited")
    after = [mark(**options) for options in (named, searched, plain)]
    assert after[0] != before[0] and after[1] != before[1] and after[2] == before[2]


def test_an_edited_function_of_a_step_makes_another_fingerprint(tmp_path, monkeypatch):
    file = tmp_path / "code_own_step.py"
    file.write_text("def work(work):\n    return {}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    step = Step("count", importlib.import_module("code_own_step").work)
    before = step_fingerprint(step, {})
    file.write_text("def work(work):\n    return {'n': 1}\n")
    assert step_fingerprint(step, {}) != before
    assert step_fingerprint(replace(step, run=len), {}) not in (before, "")


def test_an_edited_system_is_registered_anew(modules, monkeypatch):
    """Its labels and rows are part of the model and of no step."""
    asked = []

    def run_step(job, step, results):
        asked.append(step.data)
        return SimpleNamespace(facts={"version": 1})

    monkeypatch.setattr(evaluate, "run_step", run_step)
    system = System("mine", "Mine", {}, (Step("scores", len),), "scores", {})
    for name, text in (
        ("hybrid", "a"),
        ("hybrid", "b"),
        ("code_models:f", "a"),
        ("code_models:f", "b"),
    ):
        (modules / "code_models.py").write_text(text)
        job: Any = SimpleNamespace(
            settings=Settings(system=name),
            tracker=SimpleNamespace(uri="here"),
            manifest=SimpleNamespace(fingerprint="m"),
        )
        evaluate._register(job, system, {}, cast(Any, None), cast(Any, SimpleNamespace(ids=[])))
    first, same, mine, edited = asked
    assert first == same == ["multiclue", "here", "m"]
    assert mine[:3] == first and mine != edited

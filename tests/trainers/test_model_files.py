"""Saved models: what comes back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from small_hybrid import AUDIO, CLASSES, MOTION, SPATIAL, make_hybrid, write_clip

from actors.errors import UserError
from trainers.model_files import FACTS, load, part_file, save
from trainers.records import from_record, to_record
from trainers.streams.settings import StreamSettings


@pytest.fixture(scope="module")
def hybrid():
    return make_hybrid()


def change(folder, **changes) -> None:
    record = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps({**record, **changes}))


def test_saved_and_loaded_it_says_the_same(hybrid, tmp_path):
    clip = str(write_clip(tmp_path / "clip.mp4"))
    save(hybrid, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    parts = {f"{s}.{kind}" for s in (SPATIAL, MOTION, AUDIO) for kind in ("embed", "fit")}
    parts |= {"spatial.sequence", "motion.sequence", "fusion", "ensemble", "scores"}
    assert names == {FACTS} | {f"{part}.safetensors" for part in parts}
    loaded = load(tmp_path / "model")
    assert loaded.classes == CLASSES
    for name in ("system", "title", "extract", "streams", "output", "embedding", "rows", "facts"):
        assert getattr(loaded, name) == getattr(hybrid, name), name
    assert [(one.name, one.needs) for one in loaded.parts] == [
        (one.name, one.needs) for one in hybrid.parts
    ]
    one, two = hybrid.predict_clip(clip).decision, loaded.predict_clip(clip).decision
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    np.testing.assert_array_equal(one.embedding, two.embedding)
    assert one.shares == two.shares


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"holds no model: there is no system\.json"):
        load(tmp_path)


def test_a_model_of_version_0_1_0_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "hybrid.json").write_text(json.dumps({"format": 1, "classes": ["a"]}))
    (tmp_path / "fusion.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"was saved by version 0\.1\.0 of Multiclue \(hybrid\.json\), which this version "
        r"can't read: train the model again with this version, or predict with version 0\.1\.0$",
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format 99, this version reads 2"),
        ({"streams": {"spatial": {"track": "frames"}}}, "the streams are spatial"),
        ({"extract": {"fsp": 5}}, r"no 'fsp': it was saved by another .*; did you mean 'fps'\?"),
        ({"classes": ["a", "b"]}, "is damaged: .*the encoder of 'spatial' has 3 classes"),
        ({"parts": [{"name": "x"}]}, "is incomplete: no 'kind'"),
        ({"parts": None}, "is damaged"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(hybrid, tmp_path, changes, message):
    save(hybrid, tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("subprocess:Popen", "subprocess:Popen is no Part; derive it from trainers.parts.Part"),
        ("os:system", "os:system is an object of type builtin_function_or_method, not a class"),
        ("trainers.parts:NoPart", "the module trainers.parts has no 'NoPart'"),
        ("no_such_package:Part", "there is no module 'no_such_package'"),
        ("rm -rf /", "'rm -rf /' is no name of the form"),
    ],
)
def test_a_class_that_is_no_part_is_refused(hybrid, tmp_path, kind, message):
    save(hybrid, tmp_path)
    parts = json.loads((tmp_path / FACTS).read_text())["parts"]
    change(tmp_path, parts=[{**parts[0], "kind": kind}, *parts[1:]])
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_a_damaged_and_a_missing_file(hybrid, tmp_path):
    save(hybrid, tmp_path)
    fusion = tmp_path / "fusion.safetensors"
    fusion.write_bytes(fusion.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path)
    (tmp_path / "audio.embed.safetensors").unlink()
    with pytest.raises(UserError, match="incomplete: no 'audio.embed.safetensors'"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..\\b", "raft"])
def test_names_that_are_no_files(name):
    with pytest.raises(ValueError, match="a part can't be named"):
        part_file(name)


def test_settings_come_back_from_json():
    settings = StreamSettings()
    settings = replace(settings, feature_dim=7, crop=64, embed=replace(settings.embed, max_steps=3))
    assert from_record(StreamSettings, json.loads(json.dumps(to_record(settings)))) == settings

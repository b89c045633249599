"""Fusions by name: the built-in one, a user's own, and their files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from actors.errors import UserError
from trainers.fusion import models
from trainers.fusion.network import FusionNetwork
from trainers.settings import FusionSettings
from trainers.table import Table
from trainers.targets import Targets

MODULE = """
from __future__ import annotations
import io
import numpy as np
from trainers.fusion.contract import FusionModel
from trainers.settings import FusionSettings
from trainers.table import Table


class Nearest(FusionModel):
    def __init__(self, means, widths):
        self.means, self.widths = means, widths
        self.n_classes, self.multi_label = len(means), False

    def scores_and_embeddings(self, features, present):
        joined = np.concatenate([np.asarray(features[name]) for name in self.widths], axis=1)
        distances = ((joined[:, None] - self.means) ** 2).sum(2)
        weights = np.exp(distances.min(1, keepdims=True) - distances)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32), joined

    def to_bytes(self):
        content = io.BytesIO()
        widths = np.array(list(self.widths.values()))
        np.savez(content, means=self.means, names=np.array(list(self.widths)), widths=widths)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content):
        data = np.load(io.BytesIO(content), allow_pickle=False)
        return cls(data["means"], dict(zip(data["names"].tolist(), data["widths"].tolist())))


def nearest(
    table: Table, settings: FusionSettings, *, seed: int, validation: Table | None
) -> Nearest:
    joined = np.concatenate(list(table.features.values()), axis=1)
    classes = range(table.targets.n_classes)
    means = np.stack([joined[table.targets.classes() == c].mean(0) for c in classes])
    return Nearest(means, table.widths)


def broken(
    table: Table, settings: FusionSettings, *, seed: int, validation: Table | None
) -> Nearest:
    return None


def untyped(table, settings, *, seed, validation):
    return None


class Bare(FusionModel):
    def scores_and_embeddings(self, features, present):
        raise NotImplementedError

    def to_bytes(self):
        return b""

    @classmethod
    def from_bytes(cls, content):
        return cls()


def bare(table: Table, settings: FusionSettings, *, seed: int, validation: Table | None) -> Bare:
    return Bare()
"""


@pytest.fixture(autouse=True)
def own_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fusion_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def clips(seed: int = 0) -> Table:
    random = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    features = {
        name: (2 * np.eye(3, width)[labels] + 0.3 * random.normal(size=(60, width)))
        for name, width in (("frames", 4), ("sound", 3))
    }
    return Table.of(
        {name: values.astype(np.float32) for name, values in features.items()},
        targets=Targets.from_classes(labels, 3),
    )


def share_right(model: models.FusionModel, table: Table) -> float:
    scores = model.scores(table.features, table.present)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    return float((scores.argmax(1) == table.targets.classes()).mean())


@pytest.mark.parametrize("name", ["regularized", "fusion_of_a_user:nearest"])
def test_a_fusion_is_fitted_saved_and_read_by_its_name(name: str) -> None:
    settings = FusionSettings(model=name, hidden=8, max_epochs=15)
    heard: list[int] = []
    model = models.fit(
        clips(), settings, seed=0, on_epoch=lambda epoch, measures: heard.append(epoch)
    )
    assert bool(heard) == (name == "regularized")
    assert model.widths == {"frames": 4, "sound": 3} and model.n_classes == 3
    test = clips(seed=1)
    assert share_right(model, test) > 0.9
    again = models.from_bytes(models.to_bytes(model))
    assert type(again).__name__ == type(model).__name__
    for one, other in zip(
        model.scores_and_embeddings(test.features, test.present),
        again.scores_and_embeddings(test.features, test.present),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_built_in_fusion_takes_arrays_and_tensors_alike() -> None:
    model = models.fit(clips(), FusionSettings(hidden=8, max_epochs=3), seed=0)
    assert isinstance(model, FusionNetwork)
    table = clips(seed=1)
    other = table.astype(np.float64)
    np.testing.assert_array_equal(
        model.scores(table.features, table.present), model.scores(other.features, other.present)
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("subprocess:check_output", "no return annotation; declare `-> FusionModel`"),
        ("fusion_of_a_user:untyped", "no return annotation"),
        ("fusion_of_a_user:broken", "returned a NoneType, not a FusionModel"),
        ("fusion_of_a_user:bare", "has no widths, n_classes, multi_label; set what"),
        ("fusion_of_a_user:nothing", "has no 'nothing'"),
    ],
)
def test_functions_that_fit_no_fusion_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.fit(clips(), FusionSettings(model=name), seed=0)


def test_files_that_hold_no_fusion_are_refused() -> None:
    content = models.to_bytes(models.fit(clips(), FusionSettings(hidden=4, max_epochs=1), seed=0))
    one = {"content": np.zeros(3, np.uint8)}
    for spoiled, message in (
        (content[:-3], "f.safetensors is damaged"),
        (b"nothing of the kind", "f.safetensors is damaged"),
        (save(one), r"holds no fusion: its metadata names \[\]"),
        (save({"x": one["content"]}, {"fusion_class": "fusion_of_a_user:Nearest"}), "no 'content'"),
        (save(one, {"fusion_class": "subprocess:Popen"}), "subprocess:Popen is no FusionModel"),
        (save(one, {"fusion_class": "os.system"}), "is no name of the form"),
        (save(one, {"fusion": json.dumps({"widths": {}})}), "is incomplete: no 'n_classes'"),
        (save(one, {"fusion": "[]"}), "is damaged"),
    ):
        with pytest.raises(UserError, match=message):
            models.from_bytes(spoiled, where="f.safetensors")


def test_a_model_that_nothing_finds_again_is_not_saved() -> None:
    model = models.fit(clips(), FusionSettings(model="fusion_of_a_user:nearest"), seed=0)
    local = type("Nowhere", (type(model),), {"__qualname__": "f.<locals>.Nowhere"})
    found = local(model.means, model.widths)
    with pytest.raises(UserError, match="can't be found by another process"):
        models.to_bytes(found)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("widths", {"frames": 4}, "widths is {'frames': 4}, expected {.*'sound': 3}; set it"),
        ("n_classes", 2, "fit the training clips: n_classes is 2, expected 3"),
        ("multi_label", True, "nearest returned .* multi_label is True, expected False"),
    ],
)
def test_a_model_of_other_clips_is_refused(monkeypatch, attribute, value, message) -> None:
    import fusion_of_a_user

    fitted = fusion_of_a_user.nearest

    def changed(
        table: Table, settings: FusionSettings, *, seed: int, validation: Table | None
    ) -> models.FusionModel:
        model = fitted(table, settings, seed=seed, validation=validation)
        setattr(model, attribute, value)
        return model

    monkeypatch.setattr(fusion_of_a_user, "nearest", changed)
    with pytest.raises(UserError, match=message):
        models.fit(clips(), FusionSettings(model="fusion_of_a_user:nearest"), seed=0)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        *(("widths", np.arange(2)), ("widths", {"frames": np.arange(2), "sound": 3})),
        *(("n_classes", np.arange(2)), ("n_classes", 3.0), ("multi_label", 0)),
    ],
)
def test_attributes_of_another_type_are_refused(monkeypatch, attribute, value) -> None:
    import fusion_of_a_user

    replaced = property(lambda self: value, skip)
    monkeypatch.setattr(fusion_of_a_user.Nearest, attribute, replaced, raising=False)
    with pytest.raises(UserError, match=f"{attribute}.* is "):
        models.fit(clips(), FusionSettings(model="fusion_of_a_user:nearest"), seed=0)


def test_numbers_of_numpy_count_as_numbers(monkeypatch) -> None:
    import fusion_of_a_user

    replaced = property(lambda self: np.int64(3), skip)
    monkeypatch.setattr(fusion_of_a_user.Nearest, "n_classes", replaced, raising=False)
    table = clips()
    counted = replace(table, targets=Targets.from_classes(table.targets.classes(), np.int64(3)))
    for one in (table, counted):
        assert models.fit(one, FusionSettings(model="fusion_of_a_user:nearest"), seed=0)


def skip(model: models.FusionModel, value: object) -> None:
    """Sets nothing: the value of a property stays."""


def test_the_example_leaves_absent_clips_out_of_the_means() -> None:
    table, settings = clips(), FusionSettings(model="examples.nearest_mean:nearest_mean")
    there = np.arange(60) % 2 == 0
    present = {"frames": np.ones(60, bool), "sound": there}
    model = models.fit(Table.of(table.features, present, table.targets), settings, seed=0)
    of_class = there & (table.targets.classes() == 1)
    expected = table.features["sound"][of_class].mean(0)
    np.testing.assert_allclose(model.means["sound"][1], expected, rtol=1e-5)
    assert share_right(model, table) > 0.9


def test_a_class_that_no_clip_of_a_stream_has_is_at_the_mean_of_them_all() -> None:
    table, settings = clips(), FusionSettings(model="examples.nearest_mean:nearest_mean")
    there = table.targets.classes() != 1
    present = {"frames": np.ones(60, bool), "sound": there}
    model = models.fit(Table.of(table.features, present, table.targets), settings, seed=0)
    expected = table.features["sound"][there].mean(0)
    np.testing.assert_allclose(model.means["sound"][1], expected, rtol=1e-5)
    present["sound"] = np.zeros(60, bool)
    model = models.fit(Table.of(table.features, present, table.targets), settings, seed=0)
    assert not model.means["sound"].any()


def test_the_example_refuses_clips_of_several_labels() -> None:
    table, settings = clips(), FusionSettings(model="examples.nearest_mean:nearest_mean")
    targets = Targets.from_dense(table.targets.dense(), multi_label=True)
    with pytest.raises(UserError, match="needs one class per clip: set fusion.model"):
        models.fit(Table.of(table.features, targets=targets), settings, seed=0)

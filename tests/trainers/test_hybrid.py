"""The ensemble as one object: the same sums as the parts, streams that are absent, files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from small_hybrid import AUDIO, CLASSES, MOTION, SPATIAL, make_hybrid, write_clip

from actors.artifact import ArtifactReader, pack
from actors.errors import UserError
from actors.extraction import extract_clip
from actors.flow import get_engine
from actors.flow.choice import RAFT
from trainers.evaluation import SystemScores, ensemble_scores, member_scores
from trainers.hybrid import FACTS, Hybrid
from trainers.records import from_record, to_record
from trainers.refinement.confusion import refine
from trainers.refinement.fitted import METHODS, FittedRefinement
from trainers.streams.settings import StreamSettings
from trainers.table import Table
from trainers.targets import Targets


@pytest.fixture(scope="module")
def hybrid():
    return make_hybrid()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "whole.mp4"))


@pytest.fixture(scope="module")
def embeddings(hybrid, clip):
    packed = pack(extract_clip(clip, settings=hybrid.extract, streams=hybrid.streams))
    return hybrid.embed(ArtifactReader.open(packed))


def test_a_clip_with_everything(hybrid, clip):
    prediction = hybrid.predict_clip(clip)
    decision = prediction.decision
    assert prediction.error is None and prediction.absent == {}
    assert decision.probabilities.shape == (3,)
    assert decision.probabilities.sum() == pytest.approx(1)
    assert set(decision.shares) == {SPATIAL, MOTION, AUDIO}
    assert sum(decision.shares.values()) == pytest.approx(1)
    assert decision.embedding.shape == (5,)
    assert set(decision.systems) == {
        *("spatial_cnn", "motion_cnn", "audio_cnn", "spatial_lstm", "motion_lstm"),
        *("fusion", "hybrid", "refined"),
    }


def test_it_sums_what_the_evaluation_of_the_job_sums(hybrid, embeddings):
    decision = hybrid.decide(embeddings)
    systems = {
        name: SystemScores(scores[None], np.ones(1, bool))
        for name, scores in decision.systems.items()
        if name not in ("hybrid", "refined")
    }
    joined = ensemble_scores(systems)
    np.testing.assert_allclose(decision.systems["hybrid"], joined.scores[0], rtol=1e-6)
    clips = Table.of({"any": np.zeros((1, 1))})
    refined = hybrid.refinement.predict_scores(member_scores(systems, clips))
    np.testing.assert_allclose(decision.probabilities, refined[0], rtol=1e-6)
    printed = refine(joined.scores, hybrid.refinement.method.matrix, normalize=True)
    np.testing.assert_allclose(decision.probabilities, printed[0], rtol=1e-5)


def test_fusion_sees_each_streams_mean_feature(hybrid, embeddings):
    features = {s: e.features.mean(0)[None] for s, e in embeddings.items()}
    present = {s: torch.ones(1, dtype=torch.bool) for s in embeddings}
    expected = hybrid.fusion.scores(features, present)[0]
    np.testing.assert_allclose(hybrid.decide(embeddings).systems["fusion"], expected, rtol=1e-5)


def test_a_share_is_what_the_winner_would_lose_without_the_stream(hybrid, embeddings):
    whole = hybrid.decide(embeddings)
    winner = whole.probabilities.argmax()
    falls = {}
    for stream in embeddings:
        rest = {s: e for s, e in embeddings.items() if s != stream}
        fall = whole.probabilities[winner] - hybrid.decide(rest).probabilities[winner]
        falls[stream] = max(fall, 0.0)
    assert sum(falls.values()) > 0
    for stream, fall in falls.items():
        assert whole.shares[stream] == pytest.approx(fall / sum(falls.values()), abs=1e-6)


@pytest.mark.parametrize(
    ("pictures", "sound", "left"), [(True, False, {SPATIAL, MOTION}), (False, True, {AUDIO})]
)
def test_a_stream_that_a_clip_lacks_is_left_out(hybrid, tmp_path, pictures, sound, left):
    path = write_clip(tmp_path / "part.mp4", pictures=pictures, sound=sound)
    prediction = hybrid.predict_clip(str(path))
    assert set(prediction.decision.shares) == left
    assert set(prediction.absent) == {SPATIAL, MOTION, AUDIO} - left
    named = {name.split("_")[0] for name in prediction.decision.systems if "_" in name}
    assert named == left
    assert np.isfinite(prediction.decision.probabilities).all()


def test_sound_alone_makes_a_model(clip):
    decision = make_hybrid((AUDIO,)).predict_clip(clip).decision
    assert decision.shares == {AUDIO: 1.0}
    np.testing.assert_allclose(decision.systems["hybrid"], decision.systems["fusion"])


def test_several_labels_have_a_probability_each(clip):
    decision = make_hybrid(multi_label=True, refined=False).predict_clip(clip).decision
    assert decision.probabilities.sum() != pytest.approx(1, abs=1e-3)
    assert "refined" not in decision.systems


def test_files_that_cannot_be_used_are_rows(hybrid, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    rows = hybrid.predict([str(tmp_path / "missing.mp4"), clip, str(broken)])
    assert [row.error is None for row in rows] == [False, True, False]
    assert [row.decision is None for row in rows] == [True, False, True]
    assert all(row.error[1] for row in rows if row.error)


def test_saved_and_loaded_it_says_the_same(hybrid, clip, tmp_path):
    hybrid.save(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {FACTS, "fusion.safetensors", "refinement.safetensors"} | {
        f"{s}_{kind}.safetensors"
        for s, kind in [
            *((s, "cnn") for s in (SPATIAL, MOTION, AUDIO)),
            *((s, "lstm") for s in (SPATIAL, MOTION)),
        ]
    }
    loaded = Hybrid.load(tmp_path / "model")
    assert loaded.classes == CLASSES
    assert loaded.extract == hybrid.extract
    assert loaded.stream_settings == hybrid.stream_settings
    assert loaded.facts == hybrid.facts
    one, two = hybrid.predict_clip(clip).decision, loaded.predict_clip(clip).decision
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    np.testing.assert_array_equal(one.embedding, two.embedding)
    assert one.shares == two.shares


@pytest.mark.parametrize("name", METHODS)
def test_every_refinement_is_saved_and_applied(hybrid, embeddings, tmp_path, name):
    random = np.random.default_rng(0)
    labels = random.integers(3, size=60)
    targets = Targets.from_classes(labels, 3)
    logits = {m: random.dirichlet(np.ones(3), size=60) + np.eye(3)[labels] for m in hybrid.members}
    fitted = FittedRefinement.fit(
        name, Table.of(logits, targets=targets), given="logits", classes=CLASSES
    )
    with pytest.raises(ValueError, match="takes logits of"):
        replace(hybrid, refinement=fitted)
    clips = {m: random.dirichlet(np.ones(3), size=60) for m in hybrid.members}
    for scores in clips.values():
        scores[np.arange(60), labels] += 0.5
        scores /= scores.sum(1, keepdims=True)
    fitted = FittedRefinement.fit(
        name, Table.of(clips, targets=targets), given="probabilities", classes=CLASSES
    )
    refined = replace(hybrid, refinement=fitted)
    refined.save(tmp_path)
    one, two = refined.decide(embeddings), Hybrid.load(tmp_path).decide(embeddings)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    given = {m: one.systems[m][None] for m in hybrid.members}
    np.testing.assert_allclose(one.probabilities, fitted.predict_scores(given)[0], atol=1e-9)


def test_a_model_carries_the_weights_of_its_flow(clip, tmp_path):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    weights = tmp_path / "small.safetensors"
    safetensors.torch.save_file(raft_small().state_dict(), weights)
    flow = {"flow_method": "raft", "raft": RAFT(weights=str(weights), updates=1)}
    made = make_hybrid()
    made = replace(made, extract=replace(made.extract, **flow))
    expected = made.predict_clip(str(clip))
    made.save(tmp_path / "model")
    weights.unlink()
    found = Hybrid.load(tmp_path / "model").predict_clip(str(clip))
    np.testing.assert_array_equal(found.decision.probabilities, expected.decision.probabilities)


def test_a_model_of_before_has_the_bare_matrix(hybrid, embeddings, tmp_path):
    hybrid.save(tmp_path)
    record = json.loads((tmp_path / FACTS).read_text())
    record["refinement"] = {"method": "confusion", "normalize": True}
    (tmp_path / FACTS).write_text(json.dumps(record))
    matrix = {"refinement": hybrid.refinement.method.matrix}
    (tmp_path / "refinement.safetensors").write_bytes(safetensors.numpy.save(matrix))
    one, two = hybrid.decide(embeddings), Hybrid.load(tmp_path).decide(embeddings)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


def test_a_refinement_of_other_classes_or_systems_is_refused(hybrid):
    other = make_hybrid(classes=("a", "b", "c")).refinement
    with pytest.raises(ValueError, match="of 3 classes .a, b, c, ...., not this model's 3"):
        replace(hybrid, refinement=other)
    fewer = make_hybrid((SPATIAL,)).refinement
    with pytest.raises(ValueError, match="takes probabilities of spatial_lstm, fusion; this"):
        replace(hybrid, refinement=fewer)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"holds no model: there is no hybrid\.json"):
        Hybrid.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99, this version reads 1"),
        ({"streams": ["spatial"]}, "not of the same streams"),
        ({"extract": {"fsp": 5}}, r"no 'fsp': it was saved by another .*; did you mean 'fps'\?"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(hybrid, tmp_path, change, message):
    hybrid.save(tmp_path)
    record = json.loads((tmp_path / FACTS).read_text())
    (tmp_path / FACTS).write_text(json.dumps({**record, **change}))
    with pytest.raises(UserError, match=message):
        Hybrid.load(tmp_path)


def test_a_damaged_and_a_missing_file(hybrid, tmp_path):
    hybrid.save(tmp_path)
    fusion = tmp_path / "fusion.safetensors"
    fusion.write_bytes(fusion.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        Hybrid.load(tmp_path)
    (tmp_path / "audio_cnn.safetensors").unlink()
    with pytest.raises(UserError, match="incomplete: no 'audio_cnn.safetensors'"):
        Hybrid.load(tmp_path)


def test_settings_come_back_from_json():
    settings = StreamSettings()
    settings = replace(settings, network=replace(settings.network, feature_dim=7), crop=None)
    assert from_record(StreamSettings, json.loads(json.dumps(to_record(settings)))) == settings


def test_neither_ray_nor_mlflow_is_needed():
    code = (
        "import sys, trainers.hybrid;"
        "print([m for m in ('ray', 'mlflow', 'pipelines') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_auto_leaves_the_choice_of_a_device_to_the_flow(clip, monkeypatch):
    """Where PyTorch sees a GPU that the flow's kernels can't use, only the flow moves."""
    asked = []

    def spy(settings, device):
        asked.append(device)
        return get_engine(settings)

    monkeypatch.setattr("trainers.hybrid.get_engine", spy)
    assert make_hybrid().predict_clip(clip, device="auto").error is None
    assert asked == ["auto"]

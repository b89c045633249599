"""The predictor: the same sums as the job, streams that are absent, parts of a user's own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from small_hybrid import (
    AUDIO,
    CLASSES,
    MOTION,
    SPATIAL,
    join_of,
    make_hybrid,
    random_refinement,
    write_clip,
)

from actors.artifact import ArtifactReader, pack
from actors.errors import MediaError
from actors.extraction import extract_clip
from actors.flow import get_engine
from actors.flow.choice import RAFT
from trainers.evaluation import SystemScores, ensemble_scores
from trainers.model_files import load, save
from trainers.parts import JoinPart, Part, Scored, read_values, write_values
from trainers.predictor import NamedPart, Predictor
from trainers.refinement.confusion import refine
from trainers.refinement.fitted import METHODS, FittedRefinement
from trainers.table import Table
from trainers.targets import Targets


class Brightness(Part):
    """A part of a user's own: scores by the mean of some frames."""

    def __init__(self, stream: str, n_classes: int) -> None:
        self.stream, self.n_classes, self.calls = stream, n_classes, 0

    def __call__(self, clip, inputs):
        self.calls += 1
        level = float(clip.frames([0, 2]).float().mean()) / 255
        return Scored(np.full(self.n_classes, level) + np.eye(self.n_classes)[0])

    def to_bytes(self):
        return write_values({"stream": self.stream, "n_classes": self.n_classes})

    @classmethod
    def from_bytes(cls, data, name):
        return cls(**read_values(data))


@pytest.fixture(scope="module")
def hybrid() -> Predictor:
    return make_hybrid()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "whole.mp4"))


@pytest.fixture(scope="module")
def reader(hybrid, clip) -> ArtifactReader:
    return ArtifactReader.open(
        pack(extract_clip(clip, settings=hybrid.extract, tracks=hybrid.tracks))
    )


@pytest.fixture(scope="module")
def embeddings(hybrid, reader):
    return {
        one.part.stream: one.part(reader, {}) for one in hybrid.parts if one.part.stream is not None
    }


def hidden(hybrid: Predictor, stream: str) -> Predictor:
    """The same system without what sees a stream, but for the names of what joins."""
    without = {one.name: one for one in hybrid.parts if one.part.stream != stream}
    kept = []
    for one in without.values():
        needs = tuple(need for need in one.needs if need in {k.name for k in kept})
        if needs or not one.needs:
            kept.append(replace(one, needs=needs))
    streams = {s: track for s, track in hybrid.streams.items() if s != stream}
    return replace(hybrid, streams=streams, parts=tuple(kept))


def test_a_clip_with_everything(hybrid, clip):
    prediction = hybrid.predict_clip(clip)
    decision = prediction.decision
    assert prediction.error is None and prediction.absent == {}
    assert decision.probabilities.shape == (3,)
    assert decision.probabilities.sum() == pytest.approx(1)
    assert list(decision.shares) == [SPATIAL, MOTION, AUDIO]
    assert sum(decision.shares.values()) == pytest.approx(1)
    assert decision.embedding.shape == (5,)
    assert set(decision.scores) == {
        *("spatial.fit", "motion.fit", "audio.fit", "spatial.sequence", "motion.sequence"),
        *("fusion", "ensemble", "scores"),
    }


def test_a_clip_in_memory_and_its_artifact_give_the_same(hybrid, clip, reader):
    one, two = hybrid.predict_clip(clip).decision, hybrid.decide(reader)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    np.testing.assert_array_equal(one.embedding, two.embedding)
    assert one.shares == two.shares


def test_it_sums_what_the_evaluation_of_the_job_sums(hybrid, reader):
    decision = hybrid.decide(reader)
    members = join_of(hybrid).members
    systems = {
        name: SystemScores(decision.scores[name][None], np.ones(1, bool)) for name in members
    }
    joined = ensemble_scores(systems, members)
    np.testing.assert_array_equal(decision.scores["ensemble"], joined.scores[0])
    refinement = join_of(hybrid).refinement
    printed = refine(joined.scores, refinement.method.matrix, normalize=True)
    np.testing.assert_allclose(decision.probabilities, printed[0], rtol=1e-5)


def test_fusion_sees_each_streams_mean_feature(hybrid, reader, embeddings):
    features = {s: e.features.mean(0)[None] for s, e in embeddings.items()}
    present = {s: torch.ones(1, dtype=torch.bool) for s in embeddings}
    network = next(one.part.model for one in hybrid.parts if one.name == "fusion")
    expected, embedding = network.scores_and_embeddings(features, present)
    decision = hybrid.decide(reader)
    np.testing.assert_array_equal(decision.scores["fusion"], expected[0])
    np.testing.assert_array_equal(decision.embedding, embedding[0])


def test_a_share_is_what_the_winner_would_lose_without_the_stream(hybrid, reader):
    whole = hybrid.decide(reader)
    winner = whole.probabilities.argmax()
    falls = {}
    for stream in hybrid.streams:
        rest = hidden(hybrid, stream).decide(reader)
        falls[stream] = max(whole.probabilities[winner] - rest.probabilities[winner], 0.0)
    assert sum(falls.values()) > 0
    for stream, fall in falls.items():
        assert whole.shares[stream] == pytest.approx(fall / sum(falls.values()), abs=1e-9)


@pytest.mark.parametrize(
    ("pictures", "sound", "left"), [(True, False, {SPATIAL, MOTION}), (False, True, {AUDIO})]
)
def test_a_stream_that_a_clip_lacks_is_left_out(hybrid, tmp_path, pictures, sound, left):
    path = write_clip(tmp_path / "part.mp4", pictures=pictures, sound=sound)
    prediction = hybrid.predict_clip(str(path))
    assert set(prediction.decision.shares) == left
    assert set(prediction.absent) == {SPATIAL, MOTION, AUDIO} - left
    assert {name.split(".")[0] for name in prediction.decision.scores if "." in name} == left
    assert np.isfinite(prediction.decision.probabilities).all()


def test_sound_alone_makes_a_model(clip):
    decision = make_hybrid((AUDIO,)).predict_clip(clip).decision
    assert decision.shares == {AUDIO: 1.0}
    np.testing.assert_array_equal(decision.scores["ensemble"], decision.scores["fusion"])


def test_several_labels_have_a_probability_each(clip):
    decision = make_hybrid(multi_label=True, refined=False).predict_clip(clip).decision
    assert decision.probabilities.sum() != pytest.approx(1, abs=1e-3)
    assert "scores" not in decision.scores


def test_files_that_cannot_be_used_are_rows(hybrid, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    rows = hybrid.predict([str(tmp_path / "missing.mp4"), clip, str(broken)])
    assert [row.error is None for row in rows] == [False, True, False]
    assert [row.decision is None for row in rows] == [True, False, True]
    assert all(row.error[1] for row in rows if row.error)


def fitted_refinement(name: str, members: tuple[str, ...], given: str) -> FittedRefinement:
    random = np.random.default_rng(0)
    labels = random.integers(3, size=60)
    scores = {}
    for member in members:
        raw = random.dirichlet(np.ones(3), size=60) + 0.5 * np.eye(3)[labels]
        scores[member] = raw / raw.sum(1, keepdims=True)
    table = Table(
        scores,
        dict.fromkeys(members, np.ones(60, bool)),
        Targets.of([[label] for label in labels], 3),
        np.array([f"group {i % 6}" for i in range(60)]),
        np.full(60, "val"),
        np.array([str(i) for i in range(60)]),
    )
    return FittedRefinement.fit(name, table, given=given, classes=CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_refinement_is_saved_and_applied(hybrid, reader, tmp_path, name):
    members = join_of(hybrid).members
    with pytest.raises(ValueError, match="takes logits of"):
        hybrid.with_refinement(fitted_refinement(name, members, "logits"))
    fitted = fitted_refinement(name, members, "probabilities")
    other = hybrid.with_refinement(fitted)
    save(other, tmp_path)
    one, two = other.decide(reader), load(tmp_path).decide(reader)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    given = {m: one.scores[m][None] for m in members}
    np.testing.assert_array_equal(one.probabilities, fitted.predict_scores(given)[0])


def test_a_model_carries_the_weights_of_its_flow(clip, tmp_path):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    weights = tmp_path / "small.safetensors"
    safetensors.torch.save_file(raft_small().state_dict(), weights)
    flow = {"flow_method": "raft", "raft": RAFT(weights=str(weights), updates=1)}
    made = make_hybrid()
    made = replace(made, extract=replace(made.extract, **flow))
    expected = made.predict_clip(str(clip))
    save(made, tmp_path / "model")
    weights.unlink()
    found = load(tmp_path / "model").predict_clip(str(clip))
    np.testing.assert_array_equal(found.decision.probabilities, expected.decision.probabilities)


def test_a_refinement_of_other_classes_or_systems_is_refused(hybrid):
    members = join_of(hybrid).members
    with pytest.raises(ValueError, match="of 3 classes .a, b, c, ...., not this model's 3; fit it"):
        hybrid.with_refinement(random_refinement(members, ("a", "b", "c")))
    with pytest.raises(ValueError, match="takes probabilities of a, fusion; this"):
        hybrid.with_refinement(random_refinement(("a", "fusion"), CLASSES))
    with pytest.raises(
        ValueError, match="'scores': the refinement was trained on multi-label clips, the model is"
    ):
        hybrid.with_refinement(random_refinement(members, CLASSES, multi_label=True))
    fusion_alone = replace(hybrid, output="fusion")
    with pytest.raises(ValueError, match="Hybrid has no ensemble"):
        fusion_alone.with_refinement(random_refinement(members, CLASSES))


def own_system(hybrid: Predictor, *parts: NamedPart, output: str) -> Predictor:
    streams = {"light": "frames", "ears": "sound", "eyes": "frames"}
    return replace(hybrid, streams=streams, parts=parts, output=output, embedding=None, title="Own")


def test_parts_of_a_users_own_and_two_streams_of_one_track(hybrid, clip, tmp_path):
    light, eyes = Brightness("light", 3), Brightness("eyes", 3)
    parts = (
        NamedPart("light", light),
        NamedPart("eyes", eyes),
        NamedPart("both", JoinPart(("light", "eyes")), ("light", "eyes")),
    )
    own = own_system(hybrid, *parts, output="both")
    decision = own.predict_clip(clip).decision
    assert decision.shares == {"light": 0.5, "eyes": 0.5}
    assert decision.embedding.shape == (0,)
    assert (light.calls, eyes.calls) == (1, 1)  # not again for the shares
    save(own, tmp_path)
    again = load(tmp_path).predict_clip(clip).decision
    np.testing.assert_array_equal(again.probabilities, decision.probabilities)


def test_a_clip_that_lacks_what_the_system_needs(hybrid, tmp_path):
    own = own_system(hybrid, NamedPart("light", Brightness("light", 3)), output="light")
    path = str(write_clip(tmp_path / "sound.mp4", pictures=False))
    assert own.predict_clip(path).error == ("no_scores", "Own needs more than the clip has (sound)")
    with own.read(path) as clip, pytest.raises(MediaError, match="no_scores"):
        own.decide(clip)


def test_a_stream_without_which_there_is_no_answer_loses_all_of_it(hybrid, clip):
    parts = (NamedPart("light", Brightness("light", 3)), NamedPart("eyes", Brightness("eyes", 3)))
    decision = own_system(hybrid, *parts, output="eyes").predict_clip(clip).decision
    assert decision.shares == {"light": 0.0, "eyes": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "score"}, "there is no part 'score'; did you mean 'scores'"),
        ({"embedding": "x"}, "there is no part 'x'"),
        (
            {"classes": ("a", "b")},
            "part 'spatial.embed': .* has 3 classes, .* has 2; train it again",
        ),
        (
            {"multi_label": True},
            "part 'spatial.embed': the encoder of 'spatial' was trained on single-label clips, the "
            "model is multi-label; train it again on multi-label clips",
        ),
        ({"streams": {"spatial": "frames"}}, "is of the stream 'motion'; the streams are spatial"),
        ({"streams": {"spatial": "film"}}, "is of the unknown track 'film'"),
    ],
)
def test_what_does_not_fit_together_is_refused(hybrid, change, message):
    with pytest.raises(ValueError, match=message):
        replace(hybrid, **change)


def test_the_order_of_parts(hybrid):
    with pytest.raises(ValueError, match="part 'spatial.fit' needs .*not all of them before it"):
        replace(hybrid, parts=(hybrid.parts[1], hybrid.parts[0], *hybrid.parts[2:]))
    with pytest.raises(ValueError, match="two parts are named 'spatial.embed'"):
        replace(hybrid, parts=(hybrid.parts[0], *hybrid.parts))


@pytest.mark.slow
def test_neither_ray_nor_mlflow_is_needed():
    code = (
        "import sys, trainers.model_files, trainers.prediction;"
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

    def spy(settings, device, threads):
        asked.append((device, threads))
        return get_engine(settings)

    monkeypatch.setattr("trainers.predictor.get_engine", spy)
    assert make_hybrid().predict_clip(clip, device="auto").error is None
    assert asked == [("auto", torch.get_num_threads())]


def test_half_precision_is_near(hybrid, clip):
    one = hybrid.predict_clip(clip).decision
    two = make_hybrid().predict_clip(clip, precision="bf16").decision
    np.testing.assert_allclose(two.probabilities, one.probabilities, atol=0.01)
    assert (two.embedding != one.embedding).any()

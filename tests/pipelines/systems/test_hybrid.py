"""Hybrid as a tuple of steps: what its settings make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.storage import Storage
from pipelines.data import Manifest, Video
from pipelines.steps.extract import ExtractedClip
from pipelines.steps.given import Given
from pipelines.steps.run import step_fingerprint
from pipelines.steps.step import StepResult
from pipelines.systems.hybrid import hybrid
from pipelines.systems.hybrid_rows import Members
from pipelines.systems.hybrid_settings import HybridSettings
from pipelines.systems.hybrid_tables import rows as table_rows
from trainers.settings import FusionSettings, SequenceSettings
from trainers.streams.settings import StreamSettings
from tuning.settings import SearchSettings

SPLITS = ("train", "train", "val", "test")


def given(tmp_path, *, multi_label=False, labels=("a", "b", "a", "b"), sound=(0, 2)) -> Given:
    """Four clips, some of them with sound."""
    videos = tuple(
        Video(f"c{k}", f"/c{k}.mp4", (label,), split, f"g{k}")
        for k, (label, split) in enumerate(zip(labels, SPLITS, strict=True))
    )
    tracks = [("frames", "flow", *(["sound"] if k in sound else [])) for k in range(4)]
    clips = tuple(
        ExtractedClip(video, f"{video.id}.safetensors", one, {})
        for video, one in zip(videos, tracks, strict=True)
    )
    manifest = Manifest(videos, ("a", "b"), multi_label, "made")
    return Given(manifest, clips, Storage(tmp_path), "e1", seed=0)


def test_the_published_system_has_these_steps_in_this_order(tmp_path):
    system = hybrid(HybridSettings(), given(tmp_path))
    assert [step.name for step in system.steps] == [
        "spatial.fit",
        "spatial.embed",
        "motion.fit",
        "motion.embed",
        "audio.fit",
        "audio.embed",
        "spatial.sequence",
        "motion.sequence",
        "search",
        "fusion",
        "scores",
    ]
    assert system.streams == {"spatial": "frames", "motion": "flow", "audio": "sound"}
    assert list(system.rows) == [
        "spatial_cnn",
        "motion_cnn",
        "audio_cnn",
        "spatial_lstm",
        "motion_lstm",
        "fusion",
        "hybrid",
        "refined_confusion",
        "refined_dasd",
        "refined_learned",
    ]
    assert system.rows["spatial_lstm"].label == "Spatial LSTM"
    assert system.rows["audio_cnn"].streams == ("audio",)
    assert system.rows["hybrid"].ordered == ("spatial", "motion")
    assert system.step("search").needs == ("spatial.embed", "motion.embed", "audio.embed")
    assert system.step("audio.embed").items == 2
    assert [step.job for step in system.steps[-3:]] == ["tune", "tune", "evaluate"]


def test_streams_and_search_can_be_left_out(tmp_path):
    streams = {"spatial": HybridSettings().streams["spatial"]}
    settings = HybridSettings(streams=streams, search=SearchSettings(trials=0))
    system = hybrid(settings, given(tmp_path))
    assert [step.name for step in system.steps] == [
        "spatial.fit",
        "spatial.embed",
        "spatial.sequence",
        "fusion",
        "scores",
    ]
    assert system.step("fusion").needs == ("spatial.embed",)


def test_a_frozen_stream_has_no_fit_and_no_scores_of_its_own(tmp_path):
    clip = StreamSettings(encoder="timm:test_vit", frozen=True)
    streams = {**HybridSettings().streams, "clip": clip}
    system = hybrid(HybridSettings(streams=streams), given(tmp_path))
    names = [step.name for step in system.steps]
    assert "clip.fit" not in names and system.step("clip.embed").needs == ()
    assert not [row for row in system.rows if row.startswith("clip")]
    assert "clip.embed" in system.step("fusion").needs


def test_every_stream_may_have_a_sequence_model(tmp_path):
    streams = dict(HybridSettings().streams)
    streams["audio"] = replace(streams["audio"], sequence=SequenceSettings(model="peephole"))
    streams["clip"] = StreamSettings(sequence=SequenceSettings(model="mine:model"))
    system = hybrid(HybridSettings(streams=streams), given(tmp_path))
    assert system.step("audio.sequence").needs == ("audio.embed",)
    assert system.rows["audio_lstm"].label == "Audio LSTM"
    assert system.rows["clip_encoder"].label == "Clip CNN"
    assert system.rows["clip_sequence"].label == "Clip sequence model"
    assert system.step("scores").data["scores"].members == (
        "spatial_lstm",
        "motion_lstm",
        "audio_lstm",
        "clip_sequence",
        "fusion",
    )


def test_labels_follow_the_settings(tmp_path):
    """Names of rows stay, so that what is cached is found; labels say what the networks are."""
    system = hybrid(HybridSettings(), given(tmp_path))
    assert [row.label for row in system.rows.values()] == [
        *("Spatial CNN", "Motion CNN", "Audio CNN", "Spatial LSTM", "Motion LSTM"),
        *("Regularized fusion", "Hybrid (mean of LSTMs and fusion)"),
        *("Hybrid + contextual refinement", "Hybrid + DASD", "Hybrid + learned refinement"),
    ]
    streams = dict(HybridSettings().streams)
    streams["spatial"] = replace(streams["spatial"], encoder="timm:test_vit")
    streams["motion"] = replace(streams["motion"], sequence=SequenceSettings(model="mine:model"))
    streams["audio"] = replace(streams["audio"], encoder="torchvision:vit_b_16")
    settings = HybridSettings(streams, fusion=FusionSettings(model="my.fusions:nearest_mean"))
    rows = hybrid(settings, given(tmp_path)).rows
    assert [row.label for row in rows.values()][:7] == [
        *("Spatial encoder", "Motion CNN", "Audio encoder"),
        *("Spatial LSTM", "Motion sequence model"),
        *("Fusion (nearest_mean)", "Hybrid (mean of sequence models and fusion)"),
    ]
    labels = {row.name: row.label for row in table_rows(Members.of(settings))}
    assert labels["spatial_cnn_lstm"] == "encoder + LSTM (Spatial)"
    assert labels["motion_cnn_lstm"] == "CNN + sequence model (Motion)"
    assert labels["cnn_lstm_audio"] == "encoder + sequence model (Spatial & Motion) + Audio"
    assert labels["fusion"] == "Fusion (nearest_mean)"


@pytest.fixture
def marks(tmp_path):
    """Fingerprints of all steps, as `run` makes them."""

    def make(settings=None, **options):
        system = hybrid(settings or HybridSettings(), given(tmp_path, **options))
        done: dict[str, StepResult] = {}
        for step in system.steps:
            mark = step_fingerprint(step, done)
            done[step.name] = StepResult(step.name, mark, Storage(tmp_path), {}, 0.0, False)
        return {name: result.fingerprint for name, result in done.items()}

    return make


def changed(one, other):
    return {name for name in one if one[name] != other[name]}


def test_a_sequence_setting_leaves_the_encoders_as_they_are(marks):
    base = HybridSettings()
    spatial = base.streams["spatial"]
    other = replace(spatial, sequence=replace(spatial.sequence, dropout=0.5))
    streams = {**base.streams, "spatial": other}
    assert changed(marks(), marks(HybridSettings(streams=streams))) == {
        "spatial.sequence",
        "scores",
    }


def test_settings_without_effect_on_results_change_no_fingerprint(marks):
    base = HybridSettings()
    spatial = base.streams["spatial"]
    other = replace(
        spatial, cache_mb=7, open_files=9, fit=replace(spatial.fit, loader_threads=9, prefetch=9)
    )
    settings = HybridSettings(
        streams={**base.streams, "spatial": other}, search=replace(base.search, concurrent=3)
    )
    assert not changed(marks(), marks(settings))


def test_labels_and_their_kind_are_part_of_every_fingerprint(marks):
    everything = set(marks())
    assert changed(marks(), marks(multi_label=True)) == everything
    # A test clip's label changes nothing that is fitted.
    relabeled = changed(marks(), marks(labels=("a", "b", "a", "a")))
    assert relabeled == {"scores"}
    assert {"spatial.fit", "motion.fit"} <= changed(marks(), marks(labels=("b", "b", "a", "b")))

"""The table of embedded clips: rows in the manifest's order, zeros where a stream is absent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from actors.storage import Storage
from pipelines.data import Manifest, Video
from pipelines.steps.extract import ExtractedClip
from pipelines.steps.given import Given
from pipelines.steps.step import Step, StepResult, Work
from pipelines.steps.table import clip_table, read_table
from trainers.embedding import Embedding

STREAMS = {"spatial": "frames", "motion": "flow"}
TRACKS = [("frames", "flow"), ("flow",), ("sound",), ("frames",)]


@pytest.fixture
def work(tmp_path) -> Work:
    """Embeddings of a stream with an encoder of its own scores, and of a frozen one."""
    kept: dict[Any, Any] = {}
    reads = []

    def once(key, make):
        if key not in kept:
            reads.append(key)
            kept[key] = make()
        return kept[key]

    results = {}
    for stream, track in STREAMS.items():
        folder = Storage(tmp_path / stream)
        for n, tracks in enumerate(TRACKS):
            if track in tracks:
                features = torch.tensor([[n, 1.0], [n + 2, 3.0]])
                scores = torch.tensor([0.25, 0.75]) if stream == "spatial" else None
                content = Embedding(features, scores, torch.arange(2.0)).to_bytes()
                folder.write_bytes(f"c{n}.st", content)
        results[f"{stream}.embed"] = StepResult(f"{stream}.embed", stream, folder, {}, 0.0, False)
    job: Any = SimpleNamespace(once=once, reads=reads)
    return Work(job, Step("fusion", lambda work: {}), Storage(tmp_path), results)


def given(tmp_path) -> Given:
    videos = tuple(
        Video(f"c{n}", f"/c{n}.mp4", ("ab"[n % 2],), split, f"g{n}")
        for n, split in enumerate(("train", "val", "train", "test"))
    )
    clips = tuple(
        ExtractedClip(video, f"{video.id}.st", tracks, {})
        for video, tracks in zip(videos, TRACKS, strict=True)
    )
    return Given(Manifest(videos, ("a", "b"), False, "made"), clips, Storage(tmp_path), "e", seed=0)


def test_features_are_means_over_time_and_zero_where_a_clip_lacks_the_stream(work, tmp_path):
    embedded = read_table(work, given(tmp_path), STREAMS)
    table = embedded.table
    assert table.ids.tolist() == ["c0", "c1", "c3"]  # c2 has neither stream
    assert table.groups.tolist() == ["g0", "g1", "g3"]
    assert table.splits.tolist() == ["train", "val", "test"]
    assert table.targets.classes().tolist() == [0, 1, 1]
    np.testing.assert_array_equal(table.features["spatial"], [[1, 2], [0, 0], [4, 2]])
    np.testing.assert_array_equal(table.features["motion"], [[1, 2], [2, 2], [0, 0]])
    np.testing.assert_array_equal(table.there, [[1, 1], [0, 1], [1, 0]])


def test_the_clips_are_the_same_without_embeddings(work, tmp_path):
    table, full = clip_table(given(tmp_path), STREAMS), read_table(work, given(tmp_path), STREAMS)
    assert not table.features
    for name in ("ids", "groups", "splits"):
        assert getattr(table, name).tolist() == getattr(full.table, name).tolist()
    assert table.targets.classes().tolist() == full.table.targets.classes().tolist()


def test_a_step_that_does_not_need_the_embeddings_is_told_so(work, tmp_path):
    with pytest.raises(ValueError, match=r"'.+' reads the embeddings of other.*add it to the step"):
        read_table(work, given(tmp_path), {**STREAMS, "other": "frames"})


def test_a_frozen_encoder_has_no_scores_of_its_own(work, tmp_path):
    embedded = read_table(work, given(tmp_path), STREAMS)
    assert list(embedded.scores) == ["spatial"]
    expected = [[0.25, 0.75], [0, 0], [0.25, 0.75]]
    np.testing.assert_array_equal(embedded.scores["spatial"], expected)


def test_embeddings_are_read_once_per_job(work, tmp_path):
    first = read_table(work, given(tmp_path), STREAMS)
    assert read_table(work, given(tmp_path), STREAMS) is first
    assert len(work.job.reads) == 1
    fewer = read_table(work, given(tmp_path), {"motion": "flow"})
    assert fewer.table.names == ("motion",) and len(work.job.reads) == 2

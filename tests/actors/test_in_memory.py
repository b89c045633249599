"""A clip in memory has the values of its artifact."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_hybrid import write_clip

from actors.artifact import ArtifactReader, pack
from actors.errors import MediaError, UserError
from actors.extract_settings import ExtractSettings
from actors.extraction import extract_clip
from actors.flow import TVL1, get_engine
from actors.in_memory import DecodedFrames, read_clip, runs

SETTINGS = ExtractSettings(
    short_side=32,
    codec="raw",
    window=5,
    flow=TVL1(scales=2, warps=1, outer_iterations=1, inner_iterations=5),
)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("memory") / "clip.mp4", seconds=1.6))


def both(video, settings, **options):
    packed = ArtifactReader.open(pack(extract_clip(video, settings=settings, **options)))
    return packed, read_clip(video, settings=settings, threads=2, **options)


@pytest.mark.parametrize("codec", ["raw", "zstd", "jpeg"])
@pytest.mark.parametrize("every", [1, 3])
def test_the_values_are_those_of_the_artifact(video, codec, every):
    packed, clip = both(video, replace(SETTINGS, codec=codec, frame_every=every))
    with clip:
        for name in ("n_frames", "n_flow", "size", "tracks", "spectrogram_rate"):
            assert getattr(clip, name) == getattr(packed, name), name
        assert json.loads(json.dumps(clip.metadata)) == packed.metadata
        frames = [packed.n_frames - 1, 0, 2, 2]
        assert torch.equal(clip.frames(frames), packed.frames(frames))
        fields = [9, 3, 4, 5, 0, 9, packed.n_flow - 1]
        assert torch.equal(clip.flow(fields), packed.flow(fields))
        assert torch.equal(clip.flow(range(packed.n_flow)), packed.flow(range(packed.n_flow)))
        assert torch.equal(clip.spectrogram(), packed.spectrogram())


@pytest.mark.parametrize("tracks", [("frames",), ("flow",), ("sound",)])
def test_only_the_tracks_that_are_asked_for(video, tracks):
    packed, clip = both(video, replace(SETTINGS, frame_every=2), tracks=tracks)
    with clip:
        assert clip.tracks == packed.tracks == tracks
        assert json.loads(json.dumps(clip.metadata)) == packed.metadata
        assert (clip.n_frames, clip.n_flow) == (packed.n_frames, packed.n_flow)
        assert (clip.spectrogram() is None) == (packed.spectrogram() is None)
        if tracks == ("frames",):
            assert torch.equal(clip.frames([1, 3]), packed.frames([1, 3]))


def test_flow_is_found_once_and_only_where_it_is_asked_for(video):
    engine, asked = get_engine(SETTINGS.chosen_flow), []

    def spy(frames):
        asked.append(len(frames) - 1)
        return engine(frames)

    with read_clip(video, settings=SETTINGS, flow=spy) as clip:
        assert asked == []
        clip.flow([2, 3, 9])
        assert asked == [2, 1]
        clip.flow([3, 4])
        assert asked == [2, 1, 1]


def test_indices_outside_of_the_clip(video):
    with read_clip(video, settings=SETTINGS) as clip:
        with pytest.raises(IndexError, match=f"the clip has {clip.n_flow} of them"):
            clip.flow([clip.n_flow])
        with pytest.raises(IndexError, match="no frames were asked for"):
            clip.frames([])


def test_files_and_tracks_that_can_not_be_read(tmp_path):
    with pytest.raises(MediaError, match="there is no such file"):
        read_clip(str(tmp_path / "missing.mp4"), settings=SETTINGS)
    with pytest.raises(UserError, match="track 'color' does not exist"):
        read_clip(str(tmp_path / "missing.mp4"), settings=SETTINGS, tracks=["color"])


def test_frames_beyond_the_memory_are_read_from_a_file():
    rng = np.random.default_rng(0)
    given = rng.integers(0, 256, (9, 4, 6, 3), np.uint8)
    frames = DecodedFrames(keep_every=2, in_memory=2 * given[0].nbytes)
    for frame in given:
        frames.append(frame[::-1])  # as rotated frames are, not contiguous
    frames.flush()
    assert frames.seen == 9 and frames.size == (4, 6)
    for kept in range(5):
        np.testing.assert_array_equal(frames[kept], given[2 * kept, ::-1])
    frames.close()


@pytest.mark.parametrize(
    ("indices", "expected"),
    [([], []), ([3, 4, 5, 9], [(3, 5), (5, 6), (9, 10)]), ([0], [(0, 1)])],
)
def test_runs(indices, expected):
    assert list(runs(np.array(indices, np.int64), longest=2)) == expected

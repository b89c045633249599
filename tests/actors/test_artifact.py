"""Artifacts: what goes in comes out, in any codec, whole or in part."""

import threading

import numpy as np
import pytest
import safetensors.torch
import torch

from actors import artifact
from actors.artifact import ArtifactReader, Clip, ImageSpool, artifact_name, pack, pieces, spool
from actors.errors import UserError
from actors.extract_settings import CODECS, check_codec

SIZE = (21, 30)


def smooth(n, channels, seed):
    """Pictures that JPEG is made for: soft waves."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    phase = np.random.default_rng(seed).uniform(0, 6, (n, channels, 1, 1))
    return np.rint(128 + 90 * np.sin(x / 9 + y / 7 + phase)).astype(np.uint8)


def make(codec, n=6):
    rgb, flow = smooth(n, 3, 0), smooth(n - 1, 2, 1)
    frames, fields = ImageSpool(codec, 95), ImageSpool(codec, 95)
    for start in range(0, n, 4):
        frames.append(rgb[start : start + 4])
        fields.append(flow[start : start + 4])
    columns = np.random.default_rng(2).standard_normal((8, 33)).astype(np.float16)
    metadata = {
        "version": artifact.VERSION,
        "codec": codec,
        "n_frames": n,
        "n_flow": n - 1,
        "size": SIZE,
        "sound": {"columns_per_second": 100.0},
    }
    tensors = frames.tensors("frames") | fields.tensors("flow") | {"spectrogram": spool(columns)}
    return Clip(metadata, tensors), rgb, flow, columns


@pytest.fixture(params=["path", "bytes", "uri"])
def opened(request, tmp_path):
    """Opens a blob in each of the ways there are."""

    def open_blob(blob):
        if request.param == "bytes":
            return ArtifactReader.open(blob)
        path = tmp_path / "a.safetensors"
        path.write_bytes(blob)
        return ArtifactReader.open(path if request.param == "path" else path.as_uri())

    return open_blob


@pytest.mark.parametrize("codec", CODECS)
def test_round_trip(codec, opened):
    clip, rgb, flow, columns = make(codec)
    reader = opened(pack(clip))
    assert reader.tracks == ("frames", "flow", "sound")
    assert (reader.n_frames, reader.n_flow, reader.size) == (6, 5, SIZE)
    order = [5, 0, 0, 3]
    frames, fields = reader.frames(order), reader.flow(np.array([4, 1]))
    assert frames.dtype == fields.dtype == torch.uint8
    if codec == "jpeg":
        assert np.abs(frames.numpy().astype(int) - rgb[order]).mean() < 3
        assert np.abs(fields.numpy().astype(int) - flow[[4, 1]]).mean() < 1.5
    else:
        assert np.array_equal(frames, rgb[order])
        assert np.array_equal(fields, flow[[4, 1]])
    assert frames.shape == (4, 3, *SIZE)
    assert fields.shape == (2, 2, *SIZE)
    assert np.array_equal(reader.spectrogram(), columns.astype(np.float32))
    assert reader.spectrogram_rate == 100.0


def test_others_can_read_the_file():
    clip, rgb, _, columns = make("raw")
    tensors = safetensors.torch.load(pack(clip))
    assert np.array_equal(tensors["frames"], rgb)
    assert np.array_equal(tensors["spectrogram"], columns)


def test_bytes_that_went_through_a_file_are_the_same(monkeypatch):
    expected = pack(make("zstd")[0])
    monkeypatch.setattr(artifact, "_IN_MEMORY", 100)
    monkeypatch.setattr(artifact, "_PIECE", 777)
    clip = make("zstd")[0]
    assert all(t._file._rolled for t in clip.tensors.values() if t.bytes > 100)
    assert max(map(len, list(pieces(clip))[1:])) <= 777
    assert pack(clip) == expected


def test_missing_tracks_are_absent():
    clip, *_ = make("raw")
    clip.metadata |= {"n_flow": 0, "sound": None}
    del clip.tensors["flow"], clip.tensors["spectrogram"]
    reader = ArtifactReader.open(pack(clip))
    assert reader.tracks == ("frames",)
    assert reader.spectrogram() is None
    assert reader.spectrogram_rate is None
    with pytest.raises(IndexError, match="the clip has 0 of them"):
        reader.flow([0])


@pytest.mark.parametrize("indices", [[6], [-1], [0, 99]])
def test_frames_that_are_not_there_are_refused(indices):
    reader = ArtifactReader.open(pack(make("raw")[0]))
    with pytest.raises(IndexError, match=r"were asked for, the clip has 6 of them"):
        reader.frames(indices)


def test_damaged_artifacts_are_refused_with_advice(tmp_path):
    blob = pack(make("raw")[0])
    path = tmp_path / "a.safetensors"
    for damaged in (b"", blob[:50], blob[:-10], b"x" * 200):
        path.write_bytes(damaged)
        for source in (path, damaged):
            with pytest.raises(UserError, match="can't be read.*extract the clip again"):
                ArtifactReader.open(source)
    with pytest.raises(UserError, match="nowhere"):
        ArtifactReader.open(tmp_path / "nowhere")


@pytest.mark.parametrize("version", [1, 99])
def test_artifacts_of_another_version_are_refused(version):
    clip, *_ = make("raw")
    clip.metadata["version"] = version
    words = f"format version {version}, this release reads version 2; .*extract the clip again"
    with pytest.raises(UserError, match=words):
        ArtifactReader.open(pack(clip))


def test_threads_may_read_at_once(tmp_path):
    clip, rgb, *_ = make("jpeg", n=40)
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack(clip))
    reader = ArtifactReader.open(path)
    expected = reader.frames(range(40))
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 40, 60):
            if not torch.equal(reader.frames([i])[0], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_names_are_safe_readable_and_different():
    assert artifact_name("v_Archery_g01_c01").startswith("v_Archery_g01_c01-")
    ids = ["a/b", "a_b", "a b", "../a", "", ".", "ü" * 300, "a\0b", "A", "a", "\udcff"]
    names = [artifact_name(i) for i in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert name.endswith(".safetensors")
        assert name.isascii() and "/" not in name and "\0" not in name
        assert not name.startswith(".")
        assert len(name) < 120


def test_an_unknown_codec_is_refused_with_near_names():
    with pytest.raises(UserError, match="codec 'jpg' does not exist.*did you mean 'jpeg'"):
        check_codec("jpg")

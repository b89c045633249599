"""From a file to its artifact."""

import pickle
import threading
import tracemalloc

import numpy as np
import pytest
from media_files import brightness_flow, moving_square, sine, write_sound, write_video

from actors import artifact, extraction, reading
from actors.artifact import ArtifactReader, artifact_name, pack
from actors.errors import MediaError, UserError
from actors.extract_settings import ExtractSettings
from actors.extraction import ClipExtractor, extract_clip
from actors.flow import TVL1, quantize, to_gray
from actors.storage import Storage

RAW = ExtractSettings(codec="raw")
TONE = sine(0.8)[None]


def extract(path, settings=RAW, tracks=("frames", "flow", "sound")):
    clip = extract_clip(str(path), settings=settings, tracks=tracks, flow=brightness_flow)
    return ArtifactReader.open(pack(clip))


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mkv", moving_square(20), sound=TONE)


def test_frames_flow_and_sound_in_one_artifact(clip):
    made = moving_square(20)
    reader = extract(clip)
    assert reader.tracks == ("frames", "flow", "sound")
    assert np.array_equal(reader.frames(range(20)), made.transpose(0, 3, 1, 2))
    flow = brightness_flow(to_gray(made.transpose(0, 3, 1, 2)))
    assert np.array_equal(reader.flow(range(19)), quantize(flow, 20.0))
    assert reader.spectrogram().shape == (128, 81)
    facts = reader.metadata
    assert facts["absent"] == {}
    assert facts["duration"] == pytest.approx(0.8)
    assert facts["fps"] == pytest.approx(25)
    assert facts["decode_errors"] == 0
    assert facts["truncated"] is False
    assert facts["cut_at"] is None


@pytest.mark.parametrize("window", [1, 2, 3, 7, 19, 20, 64])
@pytest.mark.parametrize("every", [1, 3])
def test_windows_change_nothing(clip, window, every):
    made = moving_square(20).transpose(0, 3, 1, 2)
    reader = extract(clip, ExtractSettings(codec="raw", window=window, frame_every=every))
    kept = made[::every]
    assert np.array_equal(reader.frames(range(reader.n_frames)), kept)
    assert np.array_equal(
        reader.flow(range(reader.n_flow)), quantize(brightness_flow(to_gray(made)), 20.0)
    )


def test_only_what_is_asked_for_is_taken(clip):
    def forbidden(gray):
        raise AssertionError("no flow was asked for")

    taken = extract_clip(str(clip), settings=RAW, tracks=("frames", "sound"), flow=forbidden)
    assert ArtifactReader.open(pack(taken)).tracks == ("frames", "sound")
    assert taken.metadata["absent"] == {}
    assert extract(clip, tracks=("flow",)).tracks == ("flow",)
    assert extract(clip, tracks=("sound",)).tracks == ("sound",)


def test_another_rate(clip):
    reader = extract(clip, ExtractSettings(codec="raw", fps=12.5))
    assert np.array_equal(
        reader.frames(range(reader.n_frames)), moving_square(20)[::2].transpose(0, 3, 1, 2)
    )
    assert reader.n_flow == reader.n_frames - 1
    assert reader.metadata["fps"] == 12.5


@pytest.mark.parametrize(
    ("sound", "reason"),
    [(None, "the file has no sound"), (np.zeros((1, 9000), np.float32), "the sound is silent")],
)
def test_pictures_without_sound(tmp_path, sound, reason):
    reader = extract(write_video(tmp_path / "a.mkv", moving_square(3), sound=sound))
    assert reader.tracks == ("frames", "flow")
    assert reason in reader.metadata["absent"]["sound"]


def test_sound_without_pictures(tmp_path):
    reader = extract(write_sound(tmp_path / "a.wav", TONE))
    assert reader.tracks == ("sound",)
    assert reader.size is None
    assert reader.metadata["absent"]["flow"] == "the file has no pictures"


def test_a_single_picture_has_no_motion(tmp_path):
    reader = extract(
        write_video(tmp_path / "a.png", moving_square(1), codec="png", pixel_format="rgb24")
    )
    assert reader.tracks == ("frames",)
    assert "single frame" in reader.metadata["absent"]["flow"]


def test_nothing_usable_is_refused_with_every_reason(tmp_path):
    mute = write_video(tmp_path / "a.mkv", moving_square(2))
    with pytest.raises(MediaError, match="the file has no sound") as caught:
        extract(mute, tracks=("sound",))
    assert caught.value.kind == "no_sound"
    silent = write_sound(tmp_path / "s.wav", np.zeros((1, 9000), np.float32))
    with pytest.raises(MediaError, match="no pictures; the sound is silent"):
        extract(silent)


def test_too_large_pictures_do_not_lose_the_sound(clip):
    settings = ExtractSettings(codec="raw", max_pixels=1000)
    reader = extract(clip, settings)
    assert reader.tracks == ("sound",)
    assert "64x48 have more than 1000 pixels" in reader.metadata["absent"]["frames"]
    with pytest.raises(MediaError, match="more than 1000 pixels"):
        extract(clip, settings, tracks=("frames",))


def test_damaged_sound_does_not_lose_the_pictures_nor_the_other_way_round(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mkv", moving_square(30), sound=sine(1.2)[None])

    def broken(self, packet):
        self.errors += 1
        return iter(())

    with monkeypatch.context() as patch:
        patch.setattr(reading.SoundDecoder, "decode", broken)
        reader = extract(path)
    assert reader.tracks == ("frames", "flow")
    assert "packets can be decoded" in reader.metadata["absent"]["sound"]
    assert reader.metadata["decode_errors"] > 0
    with monkeypatch.context() as patch:
        patch.setattr(reading.PictureDecoder, "decode", broken)
        reader = extract(path)
    assert reader.tracks == ("sound",)
    assert "no picture of the file decodes" in reader.metadata["absent"]["frames"]


def test_half_a_file_is_used_and_said_to_be_truncated(tmp_path):
    path = write_video(
        tmp_path / "a.avi", moving_square(60), codec="mjpeg", pixel_format="yuvj420p"
    )
    whole = extract(path)
    assert not whole.metadata["truncated"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    half = extract(path)
    assert 10 < half.n_frames < 55
    assert half.n_flow == half.n_frames - 1
    assert half.metadata["truncated"]


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_give_an_artifact_or_a_reason(tmp_path, seed):
    path = write_video(
        tmp_path / "a.mp4", moving_square(30), codec="mpeg4", pixel_format="yuv420p",
        sound=sine(1.2)[None], sound_codec="aac",
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(data), len(data) // 100):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    try:
        reader = extract(path)
    except MediaError as error:
        assert str(path) in error.message
    else:
        for name, count in (("frames", reader.n_frames), ("flow", reader.n_flow)):
            if count:
                assert len(getattr(reader, name)(range(count))) == count


def test_a_long_clip_is_cut_and_says_so(clip):
    reader = extract(clip, ExtractSettings(codec="raw", max_seconds=0.4))
    assert reader.n_frames == 10
    assert reader.spectrogram().shape[1] == 41
    assert reader.metadata["cut_at"] == 0.4
    assert reader.metadata["duration"] == pytest.approx(0.4)


def test_memory_does_not_grow_with_length(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "_IN_MEMORY", 2**16)
    settings = ExtractSettings(codec="raw", window=16)

    def peak(n):
        path = write_video(tmp_path / f"{n}.mkv", moving_square(n), sound=sine(n / 25)[None])
        tracemalloc.start()
        taken = extract_clip(str(path), settings=settings, flow=brightness_flow)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # All but the spectrogram, which is whole in memory: 26 kB a second.
        pictures = sum(t.bytes for name, t in taken.tensors.items() if name != "spectrogram")
        return size - taken.tensors["spectrogram"].bytes, pictures

    peak(16)
    (short, little), (long, much) = peak(60), peak(600)
    assert much > 9 * little
    assert long < 1.1 * short


def test_the_facts_hold_what_the_flow_engine_has_to_say(clip, tmp_path, monkeypatch):
    class OnTheCPU:
        note = "optical flow runs on the CPU, for so and so"

        def __call__(self, frames):
            return brightness_flow(frames)

    monkeypatch.setattr("actors.extraction.get_engine", lambda *_, **__: OnTheCPU())
    worker = ClipExtractor(ExtractSettings(), ("flow",), Storage(tmp_path / "out"), "auto")
    assert worker({"id": "a", "path": str(clip)})["note"] == OnTheCPU.note


def test_an_actor_writes_the_artifact_and_returns_its_facts(clip, tmp_path):
    storage = Storage(tmp_path / "out")
    settings = ExtractSettings(flow=TVL1(scales=1, warps=1, outer_iterations=1))
    worker = pickle.loads(  # noqa: S301 - what Ray does with it
        pickle.dumps(ClipExtractor(settings, ("frames", "flow", "sound"), storage))
    )
    for _ in range(2):
        facts = worker({"id": "a/b", "path": str(clip)})
    name = artifact_name("a/b")
    assert storage.names() == [name]
    assert facts["bytes"] == len(storage.read_bytes(name))
    assert (facts["n_frames"], facts["n_flow"], facts["pairs"]) == (20, 19, 19)
    assert facts["absent"] == {} and "note" not in facts
    assert pickle.loads(pickle.dumps(worker)).storage.uri == storage.uri  # noqa: S301
    with pytest.raises(MediaError, match="no such file"):
        worker({"id": "c", "path": str(tmp_path / "gone.avi")})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"short_side": 8}, "short_side is 8; it must be at least 16"),
        ({"max_seconds": -1}, "max_seconds is -1"),
        ({"jpeg_quality": 101}, "jpeg_quality is 101"),
        ({"codec": "jepg"}, "codec 'jepg' does not exist.*'jpeg'"),
        ({"frame_every": 0}, "frame_every is 0"),
        ({"flow_method": "rafft"}, "flow method 'rafft' does not exist.*did you mean 'raft'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        ExtractSettings(**wrong)


class Color:
    """An engine that wants RGB, and gives bytes itself: the change of green, and of blue."""

    color = True

    def __call__(self, frames):
        raise AssertionError("bytes are to be asked for")

    def quantized(self, frames, bound):
        assert bound == 20.0
        assert frames.shape[1:] == (3, 48, 64)
        return frames[1:, 1:] - frames[:-1, 1:]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("window", [1, 7, 64])
def test_engines_for_color_that_give_bytes(clip, window, overlap):
    made = moving_square(20).transpose(0, 3, 1, 2)
    settings = ExtractSettings(codec="raw", window=window)
    taken = extract_clip(str(clip), settings=settings, flow=Color(), overlap=overlap)
    reader = ArtifactReader.open(pack(taken))
    assert np.array_equal(reader.flow(range(19)), made[1:, 1:] - made[:-1, 1:])
    assert np.array_equal(reader.frames(range(20)), made)


def test_the_next_window_is_decoded_while_flow_is_found(clip, monkeypatch):
    """The engine does not return before a frame of the window after its own has been decoded."""
    decoded, seen = threading.Condition(), []
    add = extraction._Windows.add

    def counted(self, frames):
        def each():
            for frame in frames:
                with decoded:
                    seen.append(1)
                    decoded.notify_all()
                yield frame

        add(self, each())

    begun = []

    def waiting(gray):
        begun.append(len(gray))
        if sum(begun) - len(begun) + 1 < 20:
            with decoded:
                assert decoded.wait_for(lambda: len(seen) > sum(begun) - len(begun) + 1, 20)
        return brightness_flow(gray)

    monkeypatch.setattr(extraction._Windows, "add", counted)
    settings = ExtractSettings(codec="raw", window=5)
    taken = extract_clip(str(clip), settings=settings, flow=waiting, overlap=True)
    assert begun == [5, 6, 6, 6]
    assert taken.metadata["n_flow"] == 19


def test_what_goes_wrong_in_an_overlapping_engine_is_raised(clip):
    def broken(gray):
        raise ArithmeticError("no flow today")

    for window in (5, 64):
        settings = ExtractSettings(codec="raw", window=window)
        with pytest.raises(ArithmeticError, match="no flow today"):
            extract_clip(str(clip), settings=settings, flow=broken, overlap=True)


def test_an_unknown_track_is_refused(clip):
    with pytest.raises(UserError, match="track 'audio' does not exist"):
        extract(clip, tracks=("audio",))
    with pytest.raises(UserError, match="no track is named; choose from frames, flow, sound"):
        extract(clip, tracks=())

"""Opening files safely, and pictures on time, upright and at a bounded size."""

import json
import os

import numpy as np
import pytest
from media_files import moving_square, write_video

from actors.errors import MediaError
from actors.media.decode import PictureDecoder, best_pictures, open_media, packets, picture_size
from actors.media.sampling import resample_indices

LIMITS = {"short_side": 256, "max_aspect": 4.0, "max_seconds": 600.0, "max_pixels": 10**7}


def read(path, **settings):
    with open_media(str(path)) as media:
        decoder = PictureDecoder(best_pictures(media), **{"fps": None, **LIMITS, **settings})
        frames = [f for p in packets(media, [decoder.stream]) for f in decoder.decode(p)]
        frames += decoder.finish()
    return frames, decoder


def test_lossless_frames_come_back_exactly(tmp_path):
    made = moving_square(7)
    frames, decoder = read(write_video(tmp_path / "a.mkv", made))
    assert np.array_equal(np.stack(frames), made)
    assert decoder.seconds == pytest.approx(7 / 25)
    assert decoder.rate == pytest.approx(25)


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ((320, 240), (320, 240)),
        ((640, 480), (341, 256)),
        ((1080, 1920), (256, 455)),
        ((64, 64), (64, 64)),
        ((1, 1), (256, 256)),
        ((600, 16), (600, 150)),
        ((16, 600), (150, 600)),
    ],
)
def test_kept_size(size, kept):
    assert picture_size(width=size[0], height=size[1], short_side=256, max_aspect=4) == kept


@pytest.mark.parametrize("fps", [5.0, 10.0, 24.0, 60.0])
def test_frames_are_taken_by_the_clock(tmp_path, fps):
    times = [0.0, 0.1, 0.14, 0.5, 0.55, 0.6, 1.2]
    made = moving_square(len(times))
    frames, decoder = read(write_video(tmp_path / "v.mkv", made, times=times), fps=fps)
    expected = resample_indices(timestamps=times, fps=fps, end=decoder.seconds)
    assert np.array_equal(np.stack(frames), made[expected])


def test_long_clips_are_cut_and_say_so(tmp_path):
    path = write_video(tmp_path / "long.mkv", moving_square(50))
    for fps in (None, 25.0):
        frames, decoder = read(path, max_seconds=1.0, fps=fps)
        assert len(frames) == 25
        assert decoder.cut
        assert decoder.seconds == pytest.approx(1.0)


def test_a_gap_in_time_does_not_fill_the_memory(tmp_path):
    path = write_video(tmp_path / "gap.mkv", moving_square(2), times=[0.0, 80_000.0])
    frames, decoder = read(path, fps=10.0, max_seconds=3.0)
    assert len(frames) == 30
    assert decoder.cut


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("ffv1", "gray", "mkv"),
        ("ffv1", "yuv420p10le", "mkv"),
        ("gif", "rgb8", "gif"),
        ("mjpeg", "yuvj420p", "avi"),
    ],
)
def test_pixel_formats(tmp_path, codec, pixel_format, suffix):
    made = moving_square(4, height=37, width=51)
    path = write_video(
        tmp_path / f"a.{suffix}", made, codec=codec, pixel_format=pixel_format, rate=10
    )
    frames, _ = read(path)
    shown = np.stack(frames).astype(int)
    assert shown.shape == made.shape
    luma = [0.299, 0.587, 0.114]
    assert np.abs(shown @ luma - made @ luma).mean() < 12


def test_other_files_are_refused_in_words(tmp_path):
    def refused(path, kind, words):
        with pytest.raises(MediaError, match=words) as caught, open_media(str(path)):
            pass
        assert caught.value.kind == kind
        assert str(path) in caught.value.message

    refused(tmp_path / "none.avi", "missing", "there is no such file")
    refused(tmp_path, "not_a_file", "a folder")
    (tmp_path / "empty.avi").touch()
    refused(tmp_path / "empty.avi", "empty", "no bytes")
    os.mkfifo(tmp_path / "pipe.avi")
    refused(tmp_path / "pipe.avi", "not_a_file", "not a regular file")
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    refused(tmp_path / "noise.avi", "unreadable", "not a video or sound file")
    (tmp_path / "words.txt").write_text("only words here\n" * 100)
    refused(tmp_path / "words.txt", "unreadable", "a text file")
    write_video(tmp_path / "real.mkv", moving_square(2))
    (tmp_path / "list.avi").write_text("ffconcat version 1.0\nfile real.mkv\n")
    refused(tmp_path / "list.avi", "unreadable", "a list of other files")


def test_too_large_pictures_are_refused_before_decoding(tmp_path):
    path = write_video(tmp_path / "a.mkv", moving_square(2))
    with pytest.raises(MediaError, match="64x48 have more than 1000 pixels") as caught:
        read(path, max_pixels=1000)
    assert caught.value.kind == "too_large"


def test_rotation_metadata_turns_frames_upright(real_data):
    # Each was filmed of the same keyboard with the camera held differently; keys lie upright.
    folder = real_data / "odd_media" / "real"
    for name, shape, turn in [
        ("decord_video_0.mov", (320, 568, 3), 0),
        ("decord_video_90.mov", (568, 320, 3), 270),
        ("decord_video_180.mov", (320, 568, 3), 180),
        ("decord_video_270.mov", (568, 320, 3), 90),
    ]:
        frames, decoder = read(folder / name, short_side=1000)
        assert frames[0].shape == shape
        assert decoder.rotation == turn
        stored = _stored(folder / name)
        assert np.array_equal(frames[0], np.rot90(stored, turn // 90))


def _stored(path):
    import av

    with av.open(str(path)) as media:
        return next(media.decode(video=0)).to_ndarray(format="rgb24")


def test_frames_agree_with_torchcodec(real_data):
    checks = real_data / "checks"
    expected = json.loads((checks / "torchcodec_expected.json").read_text())
    frames, _ = read(checks / expected["video"], short_side=1000)
    assert len(frames) == expected["streams"]["3"]["num_frames"]
    reference = np.load(checks / "torchcodec_frames.npz")
    for name in reference.files:
        frame = frames[int(name[-6:])]
        assert np.abs(frame.astype(int) - reference[name]).max() <= 2, name
        assert frame.mean(axis=(0, 1)) == pytest.approx(expected["rgb_mean"][name], abs=0.1)

"""Every odd file gives an artifact that is right or a reason that is."""

import csv

import av
import numpy as np
import pytest
from media_files import brightness_flow

from actors.artifact import ArtifactReader, pack
from actors.errors import MediaError
from actors.extract_settings import ExtractSettings
from actors.extraction import extract_clip
from actors.tracks import TRACKS

SETTINGS = ExtractSettings(codec="raw", short_side=64)

REFUSED = {
    "real/small_AudioVideoInterleave.avi": ("no_frames", "no picture of the file decodes"),
    "real/small_FlashVideo.flv": ("unreadable", "ends before any picture"),
    "real/small_Mpeg4.mp4": ("no_pictures", "no pictures; the file has no sound"),
    "real/small_WindowsMediaVideo.wmv": ("no_frames", "no picture of the file decodes"),
    "real/small_gif.gif": ("no_frames", "no picture of the file decodes"),
    "real/small_mp3.mp3": ("unreadable", "not a video or sound file"),
    "real/small_mp4-with-audio.mp4": ("no_pictures", "the sound is silent"),
    "real/small_wav.wav": ("no_pictures", "the sound stream is empty"),
    "real/torchcodec_reproduce_seek_bug.wav": ("no_pictures", "the sound is silent"),
    "derived/directory_named.avi": ("not_a_file", "a folder"),
    "derived/one_byte.avi": ("unreadable", "not a video or sound file"),
    "derived/random_bytes.avi": ("unreadable", "not a video or sound file"),
    "derived/truncated_1pct.avi": ("unreadable", "not a video or sound file"),
    "derived/zero_length.avi": ("empty", "no bytes"),
}
TRUNCATED = {f"derived/truncated_{share}pct.avi" for share in (10, 50, 90)}
DAMAGED = {"real/decord_corrupted.mp4", "derived/bitflips_0p2pct.avi"}
ABSENT_SOUND = {"derived/silent_audio.mp4": "silent"}


def test_every_odd_file(real_data):
    folder = real_data / "odd_media"
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    assert len(rows) > 60
    refused = {}
    for row in rows:
        name = row["file"]
        try:
            clip = extract_clip(str(folder / name), settings=SETTINGS, flow=brightness_flow)
        except MediaError as error:
            refused[name] = (error.kind, error.message)
            continue
        _check(folder, name, row, ArtifactReader.open(pack(clip)))
    assert refused.keys() == REFUSED.keys()
    for name, (kind, words) in REFUSED.items():
        assert refused[name][0] == kind, name
        assert words in refused[name][1], name
        assert name in refused[name][1]


def _check(folder, name, row, reader):
    facts = reader.metadata
    # The manifest counts the first video stream's frames; FFmpeg's best one may be another.
    pictures = 390 if name.endswith("nasa_13013.mp4") else int(row["pyav_frames"] or 0)
    assert reader.n_frames == pictures, name
    assert reader.n_flow == max(pictures - 1, 0), name
    sound = bool(row["audio_s"] and float(row["audio_s"])) and name not in ABSENT_SOUND
    present = {"frames": pictures > 0, "flow": pictures > 1, "sound": sound}
    assert reader.tracks == tuple(s for s in TRACKS if present[s]), name
    assert set(facts["absent"]) == set(TRACKS) - set(reader.tracks), name
    assert ABSENT_SOUND.get(name, "") in facts["absent"].get("sound", "")
    assert facts["truncated"] == (name in TRUNCATED), name
    assert (facts["decode_errors"] > 0) == (name in DAMAGED), name
    if sound:
        assert facts["sound"]["seconds"] == pytest.approx(float(row["audio_s"]), abs=0.05), name
        columns = reader.spectrogram()
        assert columns.isfinite().all(), name
        assert columns.shape[1] == pytest.approx(facts["sound"]["seconds"] * 100, abs=2), name
    if pictures:
        shown = reader.frames(range(pictures)).numpy()
        assert shown.shape[2:] == reader.size, name
        assert min(reader.size) >= 16, name
        assert min(reader.size) <= 64 or max(facts["source_size"]) < 16, name
        first = _first_picture(folder / name)
        assert np.abs(shown[0].mean(axis=(1, 2)) - first.mean(axis=(0, 1))).max() < 4, name


def _first_picture(path):
    with av.open(str(path), metadata_errors="replace") as media:
        for packet in media.demux(media.streams.best("video")):
            for picture in packet.decode():
                return picture.to_ndarray(format="rgb24")


@pytest.mark.parametrize(
    ("name", "fps", "frames"),
    [
        ("derived/vfr.mp4", 10.0, 54),
        ("derived/fps_29_97.mp4", 10.0, 21),
        ("real/torchcodec_test_non_zero_start.mp4", 15.0, 6),
    ],
)
def test_even_rates_from_uneven_files(real_data, name, fps, frames):
    settings = ExtractSettings(codec="raw", short_side=64, fps=fps)
    clip = extract_clip(
        str(real_data / "odd_media" / name), settings=settings, flow=brightness_flow
    )
    assert clip.metadata["n_frames"] == frames
    assert clip.metadata["duration"] * fps == pytest.approx(frames, abs=1)

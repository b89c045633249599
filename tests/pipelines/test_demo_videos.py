"""The demo set: same seed same bytes, balanced, and no clue where it should not be."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from actors.flow import TVL1, flow
from pipelines.data.demo_clues import CLUES, VALUES, ceiling, clue_agreement, visible_clues
from pipelines.data.demo_scenes import FPS, SAMPLE_RATE, SIDE, _cover, make_scene
from pipelines.data.demo_videos import DemoSettings, encode, make_demo_set
from pipelines.systems.hybrid import report_rows
from pipelines.systems.hybrid_rows import Members
from pipelines.systems.hybrid_settings import HybridSettings

FEW = DemoSettings(train=1, val=1, test=1, broken=3, silent=1, soundless=1)
ROOT = Path(__file__).resolve().parents[2]
TRACK = {name: one.track for name, one in HybridSettings().streams.items()}
VISIBLE = {
    name: visible_clues([TRACK[s] for s in row.streams], [TRACK[s] for s in row.ordered])
    for name, row in report_rows(Members.of(HybridSettings())).items()
}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return make_demo_set(tmp_path_factory.mktemp("demo"), settings=FEW)


def rows(manifest):
    with open(manifest, newline="") as stream:
        return list(csv.DictReader(stream))


def pictures(path, format="rgb24"):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format=format) for f in container.decode(video=0)])


def sound_of(path):
    with av.open(str(path)) as container:
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])


def whole(manifest):
    odd = ("cut", "noise", "nothing", "silent", "soundless")
    return [
        row for row in rows(manifest) if not row["path"].endswith(tuple(f"{o}.mp4" for o in odd))
    ]


def test_manifest_is_balanced_and_complete(few):
    listed = rows(few)
    assert len(listed) == 3 * 16 + 5
    assert Counter((r["split"], r["label"]) for r in whole(few)) == {
        (split, label): 1 for split in ("train", "val", "test") for label in CLUES
    }
    assert {r["split"] for r in listed if r not in whole(few)} == {"train"}
    assert len({r["group"] for r in listed}) == len({r["path"] for r in listed}) == len(listed)
    assert all((few.parent / r["path"]).is_file() for r in listed)


def test_full_set_is_balanced_too():
    settings = DemoSettings()
    assert (settings.train, settings.val, settings.test) == (20, 4, 8)
    assert min(settings.broken, settings.silent, settings.soundless) > 0


def test_clips_are_h264_and_aac(few):
    for row in whole(few)[:4]:
        with av.open(str(few.parent / row["path"])) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert video.codec_context.name == "h264"
            assert (video.width, video.height, video.average_rate) == (SIDE, SIDE, FPS)
            assert video.frames in (24, 26, 28)
            assert audio.codec_context.name == "aac"
            assert (audio.rate, audio.channels) == (SAMPLE_RATE, 1)
            seconds = float(audio.duration * audio.time_base)
            assert seconds == pytest.approx(video.frames / FPS, abs=0.15)


def test_odd_files_are_what_they_are_named(few):
    odd = {r["path"].rsplit("-", 1)[1]: few.parent / r["path"] for r in rows(few)[-5:]}
    assert set(odd) == {"cut.mp4", "noise.mp4", "nothing.mp4", "silent.mp4", "soundless.mp4"}
    assert odd["nothing.mp4"].stat().st_size == 0
    for name in ("cut.mp4", "noise.mp4", "nothing.mp4"):
        with pytest.raises(av.FFmpegError):
            pictures(odd[name])
    assert np.abs(sound_of(odd["silent.mp4"])).max() < 1e-4
    with av.open(str(odd["soundless.mp4"])) as container:
        assert not container.streams.audio
    for name in ("silent.mp4", "soundless.mp4"):
        assert len(pictures(odd[name])) >= 24


def test_same_seed_same_bytes(few, tmp_path):
    settings = DemoSettings(train=1, val=0, test=0, broken=0, silent=0, soundless=0)
    again = make_demo_set(tmp_path / "same", settings=settings)
    other = make_demo_set(tmp_path / "other", seed=1, settings=settings)
    for row in rows(again):
        data = (again.parent / row["path"]).read_bytes()
        assert data == (few.parent / row["path"]).read_bytes()
        assert data != (other.parent / row["path"]).read_bytes()


def test_finished_set_is_kept_and_an_unfinished_or_other_one_made_anew(tmp_path):
    settings = DemoSettings(train=0, val=0, test=0, broken=0, silent=1, soundless=1)

    def make(seed=0):
        manifest = make_demo_set(tmp_path, seed=seed, settings=settings)
        clips = [tmp_path / r["path"] for r in rows(manifest)]
        return clips, clips[0].stat().st_mtime_ns, clips[0].read_bytes()

    clips, made, data = make()
    assert make()[1] == made
    clips[1].unlink()
    assert make()[1] > made and clips[1].is_file()
    (tmp_path / "demo.json").write_text("{")
    assert make()[2] == data
    assert make(seed=1)[2] != data


def test_command_line_runs_from_anywhere(tmp_path):
    script = ROOT / "pipelines" / "data" / "demo_videos.py"
    assert os.access(script, os.X_OK)
    done = subprocess.run(
        [sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--seed" in done.stdout
    wrong = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True)
    assert wrong.returncode == 2 and b"--out" in wrong.stderr


def test_gray_frames_do_not_show_the_tints(few):
    differences = {"gray": [], "color": []}
    for row in whole(few):
        path = few.parent / row["path"]
        sign = 1 if CLUES[row["label"]]["order"] == "redfirst" else -1
        color = pictures(path).astype(float)
        gray = color @ (0.299, 0.587, 0.114)
        reddish = color[..., 0] - color[..., 2]
        for name, frames in (("gray", gray), ("color", reddish)):
            differences[name].append(sign * (frames[:9].mean() - frames[-9:].mean()))
    assert np.min(differences["color"]) > 20
    # A flicker of a gray level, whichever tint comes first.
    assert np.abs(differences["gray"]).max() < 1.5
    assert abs(np.mean(differences["gray"])) < 0.2


def test_only_the_motion_clue_moves_and_it_moves_up_or_down(few):
    quick = TVL1(scales=4, warps=2, outer_iterations=1)
    for row in whole(few)[:16]:
        gray = pictures(few.parent / row["path"], "gray")[:8]
        vertical = flow(gray, quick)[:, 1].mean()
        assert 1.2 < vertical * (1 if CLUES[row["label"]]["motion"] == "down" else -1) < 3.3


def test_sound_clue_is_heard(few):
    for row in whole(few)[:16]:
        spectrum = np.abs(np.fft.rfft(sound_of(few.parent / row["path"]))) ** 2
        hertz = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
        low = spectrum[hertz < 1000].sum() / spectrum.sum()
        assert low > 0.8 if CLUES[row["label"]]["sound"] == "hum" else low < 0.2


def test_tints_share_a_clip_evenly_in_both_orders():
    shares = {}
    for order in VALUES["order"]:
        clues = {"appearance": "disc", "motion": "up", "sound": "hum", "order": order}
        counted = []
        for n in range(40):
            chroma = make_scene(clues, np.random.default_rng([3, n])).chroma.astype(float)
            reddish = chroma[:, 1].mean(axis=(1, 2)) - chroma[:, 0].mean(axis=(1, 2))
            first = np.argmax(np.abs(np.diff(reddish))) + 1
            assert 0.4 <= first / len(reddish) <= 0.6
            assert (reddish[0] > reddish[-1]) == (order == "redfirst")
            counted.append(first / len(reddish))
        shares[order] = counted
    assert np.mean(shares["redfirst"]) == pytest.approx(0.5, abs=0.03)
    # The same random numbers, so that the two orders differ in nothing else.
    assert shares["redfirst"] == shares["bluefirst"]


def test_shapes_and_tints_leave_luma_alone():
    def luma(appearance, order):
        clues = {"appearance": appearance, "motion": "up", "sound": "hum", "order": order}
        return make_scene(clues, np.random.default_rng(5))

    scenes = [luma(a, o) for a in VALUES["appearance"] for o in VALUES["order"]]
    assert all(np.array_equal(scene.luma, scenes[0].luma) for scene in scenes)
    assert not any(np.array_equal(s.chroma, scenes[0].chroma) for s in scenes[1:])


def test_discs_and_crosses_cover_equal_areas():
    areas = {
        shape: [_cover(shape, np.random.default_rng(n)).sum() for n in range(20)]
        for shape in VALUES["appearance"]
    }
    assert np.allclose(areas["disc"], areas["cross"], rtol=0.03)


def test_encoding_leaves_out_the_sound_when_told():
    scene = make_scene(CLUES["disc-up-hum-redfirst"], np.random.default_rng(0))
    assert len(encode(scene, None)) < len(encode(scene, scene.sound))


def test_ceilings_follow_from_what_is_visible():
    assert {name: ceiling(clues) for name, clues in VISIBLE.items()} == {
        "spatial_cnn": 1 / 8,
        "motion_cnn": 1 / 8,
        "audio_cnn": 1 / 8,
        "spatial_lstm": 1 / 4,
        "motion_lstm": 1 / 8,
        "fusion": 1 / 2,
        "hybrid": 1.0,
        "refined_confusion": 1.0,
        "refined_dasd": 1.0,
        "refined_learned": 1.0,
    }


def test_agreement_counts_visible_clues_only():
    true = ["disc-up-hum-redfirst", "cross-up-hum-redfirst"]
    predicted = ["disc-down-hum-bluefirst", "disc-up-hum-redfirst"]
    assert clue_agreement(predicted, true, VISIBLE["spatial_cnn"]) == 0.5
    assert clue_agreement(predicted, true, VISIBLE["audio_cnn"]) == 1.0
    assert clue_agreement(predicted, true, VISIBLE["hybrid"]) == 0.0
    assert clue_agreement(true, true, VISIBLE["hybrid"]) == 1.0
    with pytest.raises(ValueError, match="1 predicted and 2 true"):
        clue_agreement(predicted[:1], true, VISIBLE["fusion"])
    with pytest.raises(ValueError, match="square"):
        clue_agreement(["square"], true[:1], VISIBLE["fusion"])

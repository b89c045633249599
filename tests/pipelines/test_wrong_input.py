"""Users' mistakes are reported before any work starts: what, where, and what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_hybrid import write_clip

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.launch import ROOT, TooManyRejected, main_guard
from pipelines.cli.settings import parse_settings
from pipelines.data import Manifest, Video
from pipelines.steps import extract as extract_step
from pipelines.steps.console import Console
from pipelines.steps.extract import ExtractedClip, Extraction
from pipelines.steps.opening import groups_in_words, open_job, split_warnings
from pipelines.steps.stream_check import check_streams
from pipelines.systems.hybrid_streams import default_streams

STREAMS = default_streams()


def refuse(*arguments: str) -> str:
    """The message that these arguments are refused with, before a job opens."""
    with pytest.raises(UserError) as refused, open_job(parse_settings("", arguments)):
        pytest.fail("the job opened")
    return str(refused.value)


@pytest.fixture
def place(tmp_path: Path) -> list[str]:
    return ["--storage", str(tmp_path / "storage")]


def test_a_path_that_does_not_exist(place: list[str], tmp_path: Path) -> None:
    message = refuse(*place, "--data", str(tmp_path / "nowhere"))
    assert "nowhere does not exist" in message and "--data" in message


def test_a_preset_that_does_not_exist(place: list[str]) -> None:
    message = refuse(*place, "--preset", "papr")
    assert "no preset 'papr'" in message and "did you mean 'paper'" in message


def test_a_backbone_that_does_not_exist(place: list[str]) -> None:
    message = refuse(*place, "--spatial.encoder", "torchvision:vgg91")
    assert "spatial" in message and "vgg91" in message and "vgg19" in message


def test_a_format_that_does_not_exist(place: list[str], tmp_path: Path) -> None:
    message = refuse(*place, "--data", str(tmp_path), "--format", "ucf110")
    assert "'ucf110'" in message and "did you mean 'ucf101'" in message


def test_a_numbered_split_of_the_demo_set(place: list[str]) -> None:
    message = refuse(*place, "--splits.number", "2")
    assert "splits.number is 2, but the demo set has no numbered splits" in message


def test_a_stream_that_does_not_exist(place: list[str]) -> None:
    message = refuse(*place, "--streams", "spatial,moton")
    assert "there is no stream 'moton'; --streams takes some of spatial,motion,audio" in message
    assert message.endswith("; did you mean 'motion'?")


def test_a_negative_lambda(place: list[str]) -> None:
    message = refuse(*place, "--fusion.lambda2", "-0.1")
    assert "lambda2 must be at least 0, got -0.1" in message


def test_a_setting_of_the_wrong_type(place: list[str]) -> None:
    assert "spatial.fit.lr" in refuse(*place, "--spatial.fit.lr", "quick")


def test_a_setting_that_does_not_exist(place: list[str]) -> None:
    assert "--spatial.fit.rate" in refuse(*place, "--spatial.fit.rate", "1")


def test_a_config_file_that_does_not_exist(place: list[str], tmp_path: Path) -> None:
    assert "there is no such file" in refuse(*place, "--config", str(tmp_path / "mine.yaml"))


def test_weights_of_the_wrong_shape(place: list[str], tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"body.0.weight": torch.zeros(1, 2, 3, 3)}, file)
    message = refuse(*place, "--spatial.weights", str(file))
    assert "spatial" in message and "body.0.weight" in message


def test_weights_that_are_not_there(place: list[str], tmp_path: Path) -> None:
    message = refuse(*place, "--motion.weights", str(tmp_path / "gone.pt"))
    assert "motion" in message and "gone.pt" in message


def test_flow_that_can_not_be_found_as_asked(place: list[str], tmp_path: Path) -> None:
    message = refuse(*place, "--extract.flow_method", "fats")
    assert "fats" in message and "'fast'" in message
    raft = [*place, "--extract.flow_method", "raft", "--extract.raft.weights"]
    assert "no such file" in refuse(*raft, str(tmp_path / "gone.pth"))
    assert "extract_gpus" in refuse(*place, "--resources.extract_gpus", "-1")


def test_storage_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refuse("--storage", str(tmp_path / "file" / "storage"))
    assert "can't be written" in message and "--storage" in message


def test_storage_that_is_full(monkeypatch: pytest.MonkeyPatch, place: list[str]) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = refuse(*place)
    assert "No space left" in message and "free some space" in message


def test_storage_that_fills_up_while_working(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/clip.safetensors")

    with pytest.raises(SystemExit) as ended:
        main_guard(work)
    assert ended.value.code == 2
    assert "no space left for /data/clip.safetensors" in capsys.readouterr().err


def test_what_a_worker_met_is_told_as_if_met_here(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/clip.safetensors")
        except OSError as error:
            wrapped = RuntimeError("a task failed")
            wrapped.cause = error  # type: ignore[attr-defined]
        raise wrapped from None

    with pytest.raises(SystemExit) as ended:
        main_guard(work)
    assert ended.value.code == 2
    assert "no space left for /data/clip.safetensors" in capsys.readouterr().err


def test_defects_keep_their_traceback() -> None:
    def work() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        main_guard(work)


def test_an_mlflow_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, place: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    message = refuse(*place)
    assert "http://127.0.0.1:9" in message and "MLFLOW_TRACKING_URI" in message


def test_mistakes_are_told_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "pipelines" / "full.py", "--data", tmp_path / "nowhere"]
    done = subprocess.run(
        [*map(str, command), "--storage", str(tmp_path / "storage")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("multiclue: ") and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout


def test_training_clips_of_one_group_alone(place: list[str], tmp_path: Path) -> None:
    rows = [
        f"{label}{i}.mp4,{label},{split},g{split}"
        for split in ("train", "val", "test")
        for label in ("run", "walk")
        for i in (split + "0", split + "1")
    ]
    table = tmp_path / "clips.csv"
    table.write_text("path,label,split,group\n" + "\n".join(rows))
    for row in rows:
        (tmp_path / row.split(",")[0]).write_bytes(b"x")
    message = refuse(*place, "--data", str(table), "--format", "csv")
    assert "one group ('gtrain')" in message and "--search.trials 0" in message


@pytest.fixture
def job(tmp_path: Path) -> Any:
    """As much of a job as the checks after extraction look at."""
    videos = tuple(
        Video(f"{label}/{i}.mp4", f"/{label}/{i}.mp4", (label,), "train", f"g{i}")
        for label in ("run", "walk")
        for i in range(4)
    )
    tested = Video("run/t.mp4", "/run/t.mp4", ("run",), "test", "g9")
    return SimpleNamespace(
        manifest=Manifest((*videos, tested), ("run", "walk"), False, "made"),
        settings=parse_settings("", ["--storage", str(tmp_path)]),
        files=Storage(tmp_path),
    )


def extraction_of(
    job: Any, *, bad: int = 0, absent: dict[str, str] | None = None, tested: bool = True
) -> Extraction:
    missing = absent or {}
    tracks = tuple(track for track in job.settings.tracks if track not in missing)
    clips = tuple(
        ExtractedClip(video, "name", tracks, {"absent": missing})
        for video in job.manifest.videos[bad : None if tested else -1]
    )
    rejected = tuple(
        {"id": v.id, "path": v.path, "stage": "extract", "kind": "empty", "message": "0 bytes"}
        for v in job.manifest.videos[:bad]
    )
    return Extraction(clips, rejected, job.files, "mark")


def test_no_test_clip_left(job: Any) -> None:
    job.settings = parse_settings("", ["--max_rejected_share", "1"])
    with pytest.raises(UserError, match="no usable test clip is left"):
        extract_step._check_enough(job, extraction_of(job, tested=False))


def test_more_than_the_allowed_share_rejected(job: Any) -> None:
    with pytest.raises(TooManyRejected) as refused:
        extract_step._check_enough(job, extraction_of(job, bad=1))
    message = str(refused.value)
    assert "1 of 9 videos" in message and "5%" in message and "1 empty" in message
    assert "rejected.parquet" in message and "run/0.mp4: 0 bytes" in message


def test_a_class_with_nothing_left(job: Any) -> None:
    job.settings = parse_settings("", ["--max_rejected_share", "1"])
    with pytest.raises(UserError, match="no usable training clip is left of 'run'"):
        extract_step._check_enough(job, extraction_of(job, bad=4))


def test_a_stream_that_no_clip_has(job: Any) -> None:
    with pytest.raises(UserError) as refused:
        extract_step._check_enough(
            job, extraction_of(job, absent={"sound": "the file has no sound"})
        )
    message = str(refused.value)
    assert "no training clip has the track 'sound' of the stream 'audio'" in message
    assert "(the file has no sound)" in message and "--streams spatial,motion" in message


def videos_of(folder: Path, *, sound: bool, pictures: bool = True) -> tuple[Video, ...]:
    clips = [folder / f"{n}.mp4" for n in range(3)]
    for n, clip in enumerate(clips):
        write_clip(clip, sound=sound, pictures=pictures, seconds=0.2, seed=n)
    (folder / "broken.mp4").write_bytes(b"x")
    paths = [*clips, folder / "broken.mp4"]
    return tuple(Video(p.name, str(p), ("run",), "train", p.name) for p in paths)


def test_silent_videos_are_found_by_their_headers(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        check_streams(videos_of(tmp_path, sound=False), STREAMS, Console())
    assert str(refused.value) == (
        "none of the 3 training clips has sound, which audio needs; "
        "leave it out: --streams spatial,motion"
    )


def test_sounds_without_pictures_are_found_by_their_headers(tmp_path: Path) -> None:
    videos = videos_of(tmp_path, sound=True, pictures=False)
    with pytest.raises(UserError, match="has pictures, which spatial and motion need; leave them "
                       "out: --streams audio"):  # fmt: skip
        check_streams(videos, STREAMS, Console())
    check_streams(videos, {"audio": STREAMS["audio"]}, Console())


def test_clips_with_neither_lack_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = videos_of(tmp_path, sound=True)
    monkeypatch.setattr("pipelines.steps.stream_check._found", lambda path: set())
    with pytest.raises(UserError) as refused:
        check_streams(videos, STREAMS, Console())
    assert str(refused.value) == (
        "none of the 4 training clips has pictures or sound, which spatial, motion and audio need; "
        "give other videos"
    )


def test_one_clip_with_sound_is_enough(tmp_path: Path) -> None:
    silent = videos_of(tmp_path / "silent", sound=False)
    loud = videos_of(tmp_path / "loud", sound=True)
    check_streams([*silent, *loud], STREAMS, Console())
    check_streams(silent[-1:], STREAMS, Console())  # unreadable: for extraction to reject


def split_of(*counts: tuple[str, str, int]) -> Manifest:
    videos = [
        Video(f"{split}{group}{n}", "", ("run",), split, group)  # type: ignore[arg-type]
        for split, group, count in counts
        for n in range(count)
    ]
    return Manifest(tuple(videos), ("run", "walk"), False, "made", "from the table")


def test_small_splits_are_warned_of() -> None:
    enough = (("train", "a", 4), ("val", "b", 2), ("val", "c", 2), ("test", "d", 2))
    assert split_warnings(split_of(*enough, ("test", "e", 2))) == []
    assert split_warnings(split_of(*enough)) == [
        "only 2 test clips for 2 classes, all of one group: figures of them may be chance"
    ]
    (one_group,) = split_warnings(split_of(("val", "b", 4), ("test", "d", 3), ("test", "e", 3)))
    assert one_group.startswith("the 4 validation clips are all of one group (b): what is chosen")
    assert groups_in_words(split_of(*enough)) == "4 groups (from the table)"


def test_names_that_do_not_exist_are_found_before_work_starts(
    place: list[str], tmp_path: Path
) -> None:
    message = refuse(*place, "--spatial.sequence.model", "nowhere:model")
    assert "spatial" in message and "nowhere" in message
    assert "nowhere" in refuse(*place, "--fusion.model", "nowhere:fusion")
    message = refuse(*place, "--spatial.fine_tune_from", "layer9")
    assert "spatial" in message and "'layer9'" in message
    assert "spatial" in (message := refuse(*place, "--spatial.crop", "null")) and "crop" in message
    config = tmp_path / "none.yaml"
    config.write_text("system: examples.two_streams:two_streams\n")
    message = refuse(*place, "--config", str(config))
    assert "has no streams" in message and "--config" in message

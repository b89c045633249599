"""Predicting on new videos: what is taken, what comes out, and many files through Ray."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console as RichConsole
from small_hybrid import CLASSES, join_of, make_hybrid, write_clip

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.arguments import parse_arguments
from pipelines.cli.model_settings import PredictSettings
from pipelines.report.predictions import check_output, in_words, predictions_table
from pipelines.steps.console import Console
from pipelines.steps.predict import find_videos, predict, predict_paths
from trainers.model_files import save
from trainers.refinement.fitted import contextual


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    save(make_hybrid(), folder / "model")
    write_clip(folder / "clips" / "one.mp4")
    write_clip(folder / "clips" / "inner" / "mute.mp4", sound=False)
    (folder / "clips" / "broken.mp4").write_bytes(b"nothing to see" * 50)
    (folder / "clips" / "notes.txt").write_text("no video")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def rows(folder) -> list[dict]:
    settings = PredictSettings(embeddings=True, storage=str(folder / "storage"))
    return predict_paths(Storage(folder / "model"), find_videos([str(folder / "clips")]), settings)


def run(folder: Path, inputs: list[str], **options) -> list[dict]:
    settings = PredictSettings(
        model=str(folder / "model"), storage=str(folder / "storage"), **options
    )
    return predict(inputs, settings, Console())


def test_files_folders_and_tables(folder, monkeypatch):
    clips = folder / "clips"
    everything = [str(clips / name) for name in ("broken.mp4", "inner/mute.mp4", "one.mp4")]
    assert find_videos([str(clips)]) == everything
    assert find_videos([everything[2], str(clips)]) == [everything[2], *everything[:2]]
    (folder / "list.csv").write_text("label,path\nx,clips/one.mp4\ny,clips/missing.mp4\nz,\n")
    listed = [str(clips / "one.mp4"), str(clips / "missing.mp4")]
    assert find_videos([str(folder / "list.csv")]) == listed
    pq.write_table(pa.table({"path": everything}), folder / "list.parquet")
    assert find_videos([str(folder / "list.parquet")]) == everything


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.mp4", "nowhere.mp4 does not exist"),
        ("empty", "empty has no video or sound files"),
        ("wrong.csv", r"has no column 'path'; it has paths, label; did you mean 'paths'\?"),
        ("torn.parquet", "can't be read as a table"),
    ],
)
def test_inputs_that_are_mistakes(folder, name, message):
    (folder / "wrong.csv").write_text("paths,label\na,b\n")
    (folder / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=message):
        find_videos([str(folder / name)])
    with pytest.raises(UserError, match="no videos"):
        find_videos([])


def test_a_row_per_video(folder, rows):
    broken, mute, one = rows
    assert broken["error"] and not broken["label"] and not broken["labels"]
    assert mute["streams"] == "spatial,motion" and mute["share_audio"] == 0.0
    expected = make_hybrid().predict_clip(str(folder / "clips" / "one.mp4")).decision
    assert one["label"] == CLASSES[expected.probabilities.argmax()]
    assert one["probabilities"] == sorted(expected.probabilities, reverse=True)
    assert one["share_spatial"] == expected.shares["spatial"]
    assert one["embedding"] == expected.embedding.tolist()


def test_the_table_on_the_terminal(rows):
    text = io.StringIO()
    RichConsole(width=400, file=text).print(predictions_table(rows))
    shown = [line for line in text.getvalue().splitlines() if ".mp4" in line]
    broken, mute, one = shown
    assert "unreadable" in broken
    assert f"{rows[2]['label']} {rows[2]['probability']:.1%}" in one
    assert f"{rows[2]['share_motion']:.0%}" in one
    assert "–" in mute and "–" not in one


def test_a_line_after_the_table_tells_how_many(rows):
    assert (
        in_words(rows, "p.csv") == "2 videos predicted, 1 video that cannot be used, all in p.csv"
    )
    assert in_words(rows[2:], None) == "1 video predicted"
    assert in_words(rows[2:] * 1200, None) == (
        "1,200 videos predicted, the first 40 shown; --output FILE writes all"
    )
    assert (
        in_words(rows[2:] * 50, "p.csv") == "50 videos predicted, all in p.csv, the first 40 shown"
    )


def test_another_refinement_takes_the_place_of_the_models_own(folder, rows, tmp_path):
    hybrid = make_hybrid()
    identity = contextual(
        np.eye(3),
        streams=join_of(hybrid).members,
        classes=CLASSES,
        multi_label=False,
        normalize=True,
    )
    (tmp_path / "mine.safetensors").write_bytes(identity.to_bytes())
    clip = str(folder / "clips" / "one.mp4")
    (row,) = run(folder, [clip], refinement=str(tmp_path / "mine.safetensors"), top=3)
    plain = hybrid.predict_clip(clip).decision.scores["ensemble"]
    assert row["probabilities"] == pytest.approx(sorted(plain, reverse=True), abs=1e-6)
    assert row["probabilities"] != pytest.approx(rows[2]["probabilities"], abs=1e-6)


def test_refinements_that_do_not_fit_are_refused(folder, tmp_path):
    clip = str(folder / "clips" / "one.mp4")
    with pytest.raises(UserError, match="--refinement nowhere does not exist"):
        run(folder, [clip], refinement="nowhere")
    file = tmp_path / "mine.safetensors"
    file.write_bytes(join_of(make_hybrid(classes=("a", "b", "c"))).refinement.to_bytes())
    with pytest.raises(UserError, match="use it: part 'scores': the refinement is of 3 classes"):
        run(folder, [clip], refinement=str(file))
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"mine\.safetensors is damaged"):
        run(folder, [clip], refinement=str(file))


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_written_rows(folder, ending, rows, tmp_path):
    output = tmp_path / f"out.{ending}"
    embeddings = ending != "csv"
    run(folder, [str(folder / "clips")], output=str(output), top=2, embeddings=embeddings)
    if ending == "csv":
        with open(output, newline="") as stream:
            read = list(csv.DictReader(stream))
        assert read[2]["label_1"] == rows[2]["label"] and read[2]["label_2"]
        assert float(read[2]["share_audio"]) == rows[2]["share_audio"]
        assert read[0]["label_1"] == "" and read[0]["share_audio"] == ""
    else:
        text = ending == "json"
        read = json.loads(output.read_text()) if text else pq.read_table(output).to_pylist()
        assert read[2]["labels"] == rows[2]["labels"][:2]
        assert read[2]["embedding"] == pytest.approx(rows[2]["embedding"])
        assert read[0]["embedding"] == []
    assert [row["error"] for row in read] == [row["error"] for row in rows]
    assert [path.name for path in tmp_path.iterdir()] == [f"out.{ending}"]


def test_embeddings_are_left_out_unless_asked_for(folder, tmp_path):
    run(folder, [str(folder / "clips" / "one.mp4")], output=str(tmp_path / "out.json"))
    assert "embedding" not in json.loads((tmp_path / "out.json").read_text())[0]


@pytest.mark.parametrize(
    ("output", "embeddings", "message"),
    [
        (None, True, "--embeddings needs --output FILE.parquet"),
        ("out.csv", True, "CSV cannot hold embeddings"),
        ("out.xlsx", False, r"must end in one of \.csv, \.json, \.parquet"),
        ("no/such/folder/out.csv", False, "is not a folder with write permission"),
    ],
)
def test_outputs_that_could_not_be_written(output, embeddings, message):
    with pytest.raises(UserError, match=message):
        check_output(output, embeddings=embeddings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "--top must be at least 1, not 0"),
        ({"gpus": -1.0}, "--gpus must be 0 or more"),
        ({"device": "tpu"}, "--device must be auto, cpu or cuda, not 'tpu'"),
        ({"precision": "int8"}, "--precision must be fp32, bf16 or auto, not 'int8'"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        PredictSettings(**options)


def test_models_that_are_not_there(folder, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    clip = str(folder / "clips" / "one.mp4")
    with pytest.raises(UserError, match="no job has run there"):
        predict([clip], PredictSettings(storage=str(folder / "storage")), Console())
    with pytest.raises(UserError, match="holds no model"):
        predict([clip], PredictSettings(model=str(folder)), Console())


def test_the_command_line():
    settings, inputs = parse_arguments(
        PredictSettings, "", ["a.mp4", "--embeddings", "--top=5", "b.mp4"], inputs="videos"
    )
    assert inputs == ["a.mp4", "b.mp4"]
    assert settings.embeddings and settings.top == 5
    assert settings.model == "models:/multiclue@champion"
    settings, inputs = parse_arguments(PredictSettings, "", [], inputs="videos")
    assert inputs == [] and not settings.embeddings


@pytest.mark.ray
@pytest.mark.slow
def test_many_files_are_shared_out_with_the_same_result(folder, rows, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = PredictSettings(storage=str(folder / "shared"), share_out_from=1)
    paths = find_videos([str(folder / "clips")])
    seen: list[int] = []
    shared = predict_paths(Storage(folder / "model"), paths, settings, on_row=seen.append)
    assert seen == [1, 2, 3]
    for one, other in zip(shared, rows, strict=True):
        assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-5)
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        for name in ("path", "label", "labels", "streams", "error"):
            assert one[name] == other[name]
    seen.clear()
    assert predict_paths(Storage(folder / "model"), paths, settings, on_row=seen.append) == shared
    assert seen == []  # all were known


@pytest.mark.parametrize("name", ["rows.json", "rows.parquet"])
def test_a_video_that_can_not_be_used_has_no_scores_and_its_name_once(folder, tmp_path, name):
    nothing, output = tmp_path / "nothing.mp4", tmp_path / name
    nothing.write_bytes(b"")
    run(folder, [str(nothing)], output=str(output))
    json_file = output.suffix == ".json"
    (row,) = json.loads(output.read_text()) if json_file else pq.read_table(output).to_pylist()
    assert row["error"] == "empty: the file has no bytes" and row["label"] == ""
    assert row["probability"] is None and row["share_spatial"] is None

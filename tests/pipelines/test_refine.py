"""Anybody's scores: read with care, compared on held-out groups, refined, written, shown."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from actors.errors import UserError
from pipelines.cli.arguments import parse_arguments
from pipelines.cli.launch import ROOT
from pipelines.cli.refine_settings import RefineSettings
from pipelines.data.score_file import read_score_file
from pipelines.report.refinement import strongest_pairs
from pipelines.steps.console import Console
from pipelines.steps.refine import refine_scores
from trainers.refinement.fitted import FittedRefinement
from trainers.refinement.score_streams import to_probabilities


def drawn(n: int = 240, c: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(c, size=n)
    truth = 3.0 * np.eye(c)[labels]
    return {
        "frames_scores": truth + random.normal(size=(n, c)),
        "sound_scores": 20 * (truth + 2 * random.normal(size=(n, c))),
        "labels": labels,
        "video_ids": np.array([f"v_Class{k}_g{k % 8:02d}_c01" for k in range(n)]),
        "class_names": np.array(["<b>cat</b>", "dog", "bird", "fish", "ant"][:c]),
    }


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_ucf_groups_absent_streams_and_names(tmp_path):
    arrays = drawn()
    there = np.ones(240, bool)
    there[::7] = False
    arrays["sound_scores"][::7] = np.nan
    data = read_score_file(write(tmp_path / "a.npz", **arrays, sound_present=there))
    assert list(data.table.names) == ["frames", "sound"] and data.given == "logits"
    assert data.classes[1] == "dog" and not data.multi_label
    assert sorted(set(data.table.groups)) == [f"g{k:02d}" for k in range(8)]
    np.testing.assert_array_equal(data.table.present["sound"], there)


def test_groups_by_array_by_pattern_and_none(tmp_path):
    arrays = drawn()
    path = write(tmp_path / "a.npz", **arrays, person=np.arange(240) % 3)
    assert len(set(read_score_file(path, groups="person").table.groups)) == 3
    data = read_score_file(path, groups=r"Class\d*(\d)_")
    assert set(data.table.groups) == set("0123456789")
    del arrays["video_ids"]
    data = read_score_file(write(tmp_path / "b.npz", **arrays))
    assert len(set(data.table.groups)) == 240 and data.grouped_by == "each clip is its own group"


def test_probabilities_are_known_by_their_look(tmp_path):
    arrays = drawn()
    for name in ("frames_scores", "sound_scores"):
        arrays[name] = to_probabilities(arrays[name])
    path = write(tmp_path / "a.npz", **arrays)
    assert read_score_file(path).given == "probabilities"
    assert read_score_file(path, given="logits").given == "logits"
    arrays["sound_scores"] *= 0.5
    with pytest.raises(UserError, match="be in 0..1 with sum 1 per clip"):
        read_score_file(write(tmp_path / "b.npz", **arrays), given="probabilities")


def with_nan(arrays):
    arrays["frames_scores"][[4, 9], 2] = np.nan


MISTAKES = {
    "labels_missing": (lambda a: a.pop("labels"), "has no array labels; it has frames_scores"),
    "no_scores": (
        lambda a: [a.pop("frames_scores"), a.pop("sound_scores")],
        "has no array NAME_scores; it has labels, video_ids",
    ),
    "nan": (with_nan, "frames_scores has NaN or infinity in rows 4, 9; .* frames_present"),
    "shapes": (
        lambda a: a.update(sound_scores=a["sound_scores"][:-1]),
        r"sound_scores is \(239, 5\), but frames_scores is \(240, 5\)",
    ),
    "flat": (lambda a: a.update(sound_scores=np.ones(240)), r"must be \(clips, classes\)"),
    "words": (
        lambda a: a.update(sound_scores=np.full((240, 5), "x")),
        "sound_scores must be numbers, it is <U1",
    ),
    "range": (
        lambda a: a["labels"].__setitem__(3, 5),
        "labels must be in 0..4, but row 3 has 5",
    ),
    "halves": (lambda a: a.update(labels=a["labels"] / 2), "class indices, they are float64"),
    "few_labels": (lambda a: a.update(labels=a["labels"][:9]), r"labels are \(9,\), the scores"),
    "targets": (
        lambda a: a.update(labels=2 * np.eye(5)[a["labels"]]),
        "must be 0 or 1; rows 0, 1, 2, 3, 4, .* hold other values",
    ),
    "names": (lambda a: a.update(class_names=np.array(["a"])), r"class_names is \(1,\)"),
    "one_group": (lambda a: a.update(groups=np.zeros(240)), "all 240 clips are in one group"),
    "presence": (lambda a: a.update(sound_present=np.ones(3)), "sound_present must be 240"),
    "nowhere": (
        lambda a: a.update(sound_present=np.arange(240) != 5, frames_present=np.arange(240) != 5),
        "rows 5 have no score of any stream",
    ),
    "objects": (
        lambda a: a.update(labels=np.array([{}] * 240, object)),
        "Python objects, which are not read",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_file_with_a_mistake_is_refused(tmp_path, name):
    change, message = MISTAKES[name]
    arrays = drawn()
    change(arrays)
    with pytest.raises(UserError, match=message) as refused:
        read_score_file(write(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(refused.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_score_file(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("labels,scores")
    with pytest.raises(UserError, match="is not an .npz file"):
        read_score_file(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(UserError, match="is not an .npz file"):
        read_score_file(tmp_path / "one.npy")
    with pytest.raises(UserError, match="all 240 clips are in one group"):
        read_score_file(write(tmp_path / "a.npz", **drawn()), groups="(Class)")
    with pytest.raises(UserError, match="not a pattern with one .group.") as refused:
        read_score_file(write(tmp_path / "a.npz", **drawn(), person=np.ones(240)), groups="persn")
    assert "did you mean 'person'" in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "--folds must be at least 2, not 1"),
        (["--method", "learnt"], "not 'learnt'; did you mean 'learned'"),
        (["--given", "odds"], "--given takes one of auto, logits"),
        (["--output", "mine.pkl"], "must be .safetensors"),
    ],
)
def test_settings_that_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_arguments(RefineSettings, "", arguments)


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    place = tmp_path_factory.mktemp("refine")
    path = write(place / "scores.npz", **drawn())
    settings = RefineSettings(output=str(place / "mine.safetensors"), folds=4)
    return place, refine_scores(path, settings, Console())


def test_every_way_is_a_row_and_the_file_repeats_the_chosen_one(refined):
    place, result = refined
    assert [row.name for row in result.rows] == [
        *("stream frames", "stream sound", "mean_logits", "mean_probabilities", "temperature"),
        *("gap", "weights", "confusion", "shrunk", "dasd", "learned"),
    ]
    for row in result.rows:
        assert {"accuracy", "mean_class_accuracy", "map", "ece"} <= set(row.figures)
    # The second stream is louder, not better: a temperature per stream finds that out.
    named = {row.name: row.figures["accuracy"] for row in result.rows}
    assert named["temperature"] > named["mean_logits"] + 0.05
    assert result.choice.name == "learned"
    saved = FittedRefinement.from_bytes((place / "mine.safetensors").read_bytes())
    scores = read_score_file(place / "scores.npz").table
    np.testing.assert_array_equal(
        saved.predict_scores(scores), result.refinement.predict_scores(scores)
    )
    assert saved.facts["clips"] == 240
    assert saved.facts["cross_validated"]["learned"]["accuracy"] == named["learned"]


def test_the_page_shows_pairs_and_calibration_and_escapes_names(refined):
    place, _ = refined
    page = (place / "mine.html").read_text()
    assert "<b>cat</b>" not in page and "&lt;b&gt;cat&lt;/b&gt;" in page
    for words in (
        "Adds logit of",
        "image/png;base64",
        "ECE",
        "learned refinement",
        "share correct",
    ):
        assert words in page
    assert not re.search(r"(src|href)=[\"']?https?:", page)


def test_the_strongest_pairs_by_name():
    borrowing = np.zeros((2, 3, 3))
    borrowing[0, 0, 0], borrowing[0, 0, 1], borrowing[1, 2, 1] = 9.0, 0.5, -0.7
    pairs = strongest_pairs(borrowing, ["a", "b", "c"], ["x", "y"])
    assert [(p.taker, p.giver, p.stream, p.weight) for p in pairs] == [
        ("c", "b", "y", -0.7),
        ("a", "b", "x", 0.5),
    ]


def test_several_labels(tmp_path):
    arrays = drawn()
    random = np.random.default_rng(0)
    targets = np.eye(5, dtype=int)[arrays["labels"]] | (random.random((240, 5)) < 0.1)
    arrays["labels"] = targets
    arrays["frames_scores"] = 6 * targets - 3 + random.normal(size=(240, 5))
    settings = RefineSettings(output=str(tmp_path / "m.safetensors"), folds=3)
    result = refine_scores(write(tmp_path / "a.npz", **arrays), settings, Console())
    for row in result.rows:
        assert {"map", "gap_at_20", "ece"} <= set(row.figures)
    assert result.choice.name != "confusion"


def test_test_labels_at_random_choose_none(tmp_path):
    arrays = drawn()
    arrays["labels"] = np.random.default_rng(1).integers(5, size=240)
    settings = RefineSettings(output=str(tmp_path / "m.safetensors"), folds=4)
    result = refine_scores(write(tmp_path / "a.npz", **arrays), settings, Console())
    assert result.choice.name == "none"


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "pipelines" / "refine.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    arrays = drawn()
    with_nan(arrays)
    path = write(tmp_path / "a.npz", **arrays)
    for words, message in (([str(path)], "NaN or infinity in rows 4, 9"), ([], "give one .npz")):
        done = run(*words, "--output", str(tmp_path / "m.safetensors"))
        assert done.returncode == 2 and message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.slow
def test_real_two_stream_scores(real_data, tmp_path):
    """The figures that the job must reach on real networks' scores of UCF-101."""
    path = real_data / "checks/ucf101_split1_twostream_scores_orri17.npz"
    begun = time.process_time()
    settings = RefineSettings(output=str(tmp_path / "m.safetensors"))
    result = refine_scores(path, settings, Console())
    named = {row.name: row.figures["accuracy"] for row in result.rows}
    assert named["mean_logits"] == 3329 / 3783
    assert named["confusion"] == pytest.approx(0.878, abs=0.002)
    assert named["learned"] >= 0.905 and result.choice.name == "learned"
    # Two cores, sixty seconds.
    assert time.process_time() - begun < 120

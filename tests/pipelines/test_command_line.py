"""What a person asks or types wrong is answered in plain words, and before anything slow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from actors.errors import UserError
from pipelines.cli.arguments import parse_arguments
from pipelines.cli.compare_options import read_comparison
from pipelines.cli.launch import ROOT
from pipelines.cli.layout import lay_out
from pipelines.cli.model_settings import PredictSettings
from pipelines.cli.refine_settings import RefineSettings
from pipelines.cli.settings import Settings, option_names, parse_settings
from pipelines.cli.settings_help import MAIN_OPTIONS

JOBS = ("full", "extract", "train", "tune", "evaluate", "compare", "promote", "predict", "refine")
SLOW = {"torch", "torchvision", "torchaudio", "ray", "mlflow", "numba", "av", "sklearn"}
"""Packages that take from half a second to several to import."""


def run_job(job: str, *arguments: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """What a job answers, and the packages that it imported for that."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "pipelines" / f"{job}.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stderr.splitlines()
    imported = {x.rpartition("|")[2].strip() for x in lines if x.startswith("import time:")}
    done.stderr = "\n".join(x for x in lines if not x.startswith("import time:"))
    return done, {name.partition(".")[0] for name in imported}


@pytest.mark.parametrize("job", JOBS)
def test_help_imports_nothing_slow(job: str) -> None:
    done, imported = run_job(job, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {job}.py")
    assert "yaml" in imported and not imported & SLOW


@pytest.mark.parametrize("job", JOBS)
def test_a_typo_imports_nothing_slow(job: str) -> None:
    done, imported = run_job(job, "--nosuch", "1")
    assert done.returncode == 2
    assert done.stderr.startswith("multiclue: there is no option --nosuch")
    assert "yaml" in imported and not imported & SLOW


def test_data_that_is_not_there_is_told_before_anything_slow_is_imported(tmp_path: Path) -> None:
    done, imported = run_job("full", "--data", str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "nowhere does not exist" in done.stderr
    assert "yaml" in imported and not imported & SLOW


def refuse(*arguments: str) -> str:
    with pytest.raises(UserError) as refused:
        parse_settings("", arguments)
    message = str(refused.value)
    assert "\n" not in message and not re.search(r"Parser key|typing\.|<class|\?;", message)
    return message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "--extract.flow_method fats",
            "--extract.flow_method takes one of tvl1, exact, fast or raft, not 'fats'; "
            "did you mean 'fast' or 'raft'?",
        ),
        ("--spatial.fit.lr abc", "--spatial.fit.lr takes a number, not 'abc'"),
        ("--spatial.fit.lr=abc", "--spatial.fit.lr takes a number, not 'abc'"),
        (
            "--spatial.fit.lrr 0.1",
            "there is no option --spatial.fit.lrr; did you mean '--spatial.fit.lr'?",
        ),
        (
            "--spatal.fit.lr 0.1",
            "there is no option --spatal.fit.lr; did you mean '--spatial.fit.lr'?",
        ),
        (
            "--group_pattern x",
            "there is no option --group_pattern; did you mean '--splits.group_pattern'?",
        ),
        (
            "--nosuch 1",
            "there is no option --nosuch; --help shows the main options, --help-all all of them",
        ),
        ("--see 3", "there is no option --see; did you mean '--seed'?"),
        ("--search.concurrent 1.5", "--search.concurrent takes a whole number, or null, not '1.5'"),
        ("--spatial.flip maybe", "--spatial.flip takes true or false, not 'maybe'"),
        ("--motion.sequence.hidden 8,9", "--motion.sequence.hidden takes a list such as [8, 8], "
                                         "not '8,9'"),
        (
            "--spatial.optimizer.lr 0.1",
            "there is no option --spatial.optimizer.lr; did you mean '--spatial.fit.lr' or "
            "'--spatial.sequence.fit.lr'?",
        ),
        (
            "--motion.sequence.model ltsm",
            "--motion.sequence.model: there is no sequence model 'ltsm': choose none, lstm, "
            "peephole or package.module:function; did you mean 'lstm'?",
        ),
        ("--audio.track sond", "--audio.track takes one of frames, flow, sound, not 'sond'; "
                               "did you mean 'sound'?"),
        ("--extract.fps 0", "--extract.fps is 0.0; it must be above 0 and finite"),
        ("--search high", "--search takes a YAML file with its settings, not 'high'"),
        ("--seed", "--seed needs a value: a whole number"),
        ("video.mp4", "'video.mp4' is no option: options begin with --"),
        ("--config missing.yaml", "--config missing.yaml: there is no such file"),
        ("--preset papr", "there is no preset 'papr'; --preset takes demo or paper; "
                          "did you mean 'paper'?"),
        ("--spatial.fit.lr -1", "--spatial.fit.lr must be above 0, not -1.0"),
    ],
)  # fmt: skip
def test_mistakes_in_plain_words(given: str, told: str) -> None:
    assert refuse(*given.split(" ")) == told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("sed: 3", "there is no setting sed; did you mean 'seed'?"),
        ("search: {trails: 3}", "there is no setting search.trails; did you mean 'search.trials'?"),
        (
            "spatial: {fit: {lrr: 3}}",
            "there is no setting spatial.fit.lrr; did you mean 'spatial.fit.lr'?",
        ),
        ("seed: often", "seed takes a whole number, not 'often'"),
        ("spatial: {fit: {lr: fast}}", "spatial.fit.lr takes a number, not 'fast'"),
    ],
)
def test_mistakes_in_a_file_name_the_file(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    assert refuse("--config", str(file)) == f"{file}: {told}"
    assert refuse(f"--config={file}") == f"{file}: {told}"


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (
            "spatial: {fit: {lr: -1}}",
            "--motion.fit.lr 0.01",
            "{file}: spatial.fit.lr must be above 0, not -1.0",
        ),
        (
            "spatial: {fit: {lr: -1}}",
            "",
            "{file}: spatial.fit.lr must be above 0, not -1.0",
        ),
        (
            "spatial: {fit: {lr: 1}}",
            "--spatial.fit.lr=-2",
            "--spatial.fit.lr must be above 0, not -2.0",
        ),
        (
            "spatial: {fit: {lr: -1}}",
            "--motion.fit.lr -1",
            "{file}: spatial.fit.lr must be above 0, not -1.0",
        ),
        ("motion: {sequence: {hidden: [0]}}", "", "{file}: motion.sequence.hidden must name at "
                                                  "least one layer of 1 unit, not (0,)"),
        ("fusion: {lambda2: -0.1}", "--fusion.lambda3 0.2",
         "{file}: fusion.lambda2 must be at least 0, got -0.1"),
    ],
)  # fmt: skip
def test_a_refused_value_is_told_with_the_place_that_gave_it(
    tmp_path: Path, content: str, options: str, told: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    assert refuse("--config", str(file), *options.split()) == told.format(file=file)


def test_options_of_one_job_alone_are_known_to_it() -> None:
    with pytest.raises(UserError, match="no option --fold; did you mean '--folds'"):
        read_comparison("", ["--fold", "3"])
    with pytest.raises(UserError, match="--folds needs a value"):
        read_comparison("", ["--folds"])
    with pytest.raises(UserError, match="--top takes a whole number, not 'all'"):
        parse_arguments(PredictSettings, "", ["--top", "all"])
    with pytest.raises(UserError, match=r"not 'logit'; did you mean 'logits'\?$"):
        parse_arguments(RefineSettings, "", ["--given", "logit"])


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse_settings("what the job does", arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_short_help_shows_the_main_options_and_the_long_one_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    short, long = shown(capsys, "--help"), shown(capsys, "--help-all")
    assert len(short.splitlines()) < 150 < len(long.splitlines())
    assert all(f"\n  --{name}" in short for names in MAIN_OPTIONS.values() for name in names)
    assert "what the job does" in short and "--help-all shows every setting" in short
    lr = parse_settings("", []).streams["spatial"].fit.lr
    assert f"--spatial.fit.lr X      Learning rate at the first step. (default: {lr})" in short
    assert Settings().streams["spatial"].fit.lr != lr
    headings = ["spatial", "spatial.fit", "spatial.embed", "spatial.sequence", "motion.fit",
                "fusion", "search", "refinement"]  # fmt: skip
    assert all(f"\n{heading}:\n" in long for heading in headings)
    layout, _ = lay_out("hybrid", [])
    words = long.replace("[", " ").replace("]", " ").split()
    assert all(f"--{name}" in words for name in option_names(layout, {}))


def test_help_shows_the_streams_and_defaults_that_files_give(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("streams: {clip: {encoder: 'timm:x'}, audio: null}")
    long = shown(capsys, "--help-all", "--config", str(file))
    assert "\nclip.fit:\n" in long and "(default: timm:x)" in long and "\naudio:\n" not in long
    assert "\n  --preset VALUE" in long


def test_help_of_a_small_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(PredictSettings, "predicts", ["--help"], inputs="videos")
    short = capsys.readouterr().out
    assert "INPUT ..." in short and "--embeddings  " in short and "--tracking.uri" not in short
    with pytest.raises(SystemExit):
        parse_arguments(PredictSettings, "predicts", ["--help-all"], inputs="videos")
    assert "--tracking.uri" in capsys.readouterr().out

"""The ensemble's refinement in the job: fitted and chosen on validation clips alone, then kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pipelines.steps.caching import run_stage
from pipelines.steps.inputs import EmbeddedClips

from actors.storage import Storage
from pipelines import evaluate as step
from pipelines.cli.settings import parse_settings
from pipelines.data import Manifest, Video
from pipelines.data.score_file import read_scores
from pipelines.extract import ExtractedClip
from pipelines.refine import RefineSettings, refine_scores
from pipelines.report.gather import _methods, chosen_row
from pipelines.steps.console import Console
from trainers.evaluation import SystemScores
from trainers.table import Table
from trainers.targets import Targets

N, CLASSES = 360, ("ant", "bee", "cow", "dog")


def clips(multi_label=False, seed=0):
    """Targets, and systems that need each other: classes 0 and 1 differ in what 2 and 3 get."""
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=N)
    targets = np.eye(4, dtype=bool)[labels]
    if multi_label:
        targets |= random.random(targets.shape) < [0.9, 0.1, 0.1, 0.1]
        logits = 6.0 * targets - 3 + random.normal(size=targets.shape)
        scores = 1 / (1 + np.exp(-logits))
    else:
        logits = 2.0 * targets + 0.7 * random.normal(size=targets.shape)
        either = labels < 2
        logits[either, 0] = logits[either, 1] = 2.0
        logits[either, 2 + labels[either]] += 1.0
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    there = np.ones(N, bool)
    there[::9] = False
    systems = {
        "spatial_lstm": SystemScores(np.where(there[:, None], scores, 0.0), there),
        "fusion": SystemScores(scores, np.ones(N, bool)),
    }
    return targets, systems


def job_of(tmp_path, monkeypatch, targets, systems, *arguments, multi_label=False):
    """What `evaluate` needs of a job, without Ray, networks or MLflow."""
    split = np.array(["val", "test", "val"])[np.arange(N) % 3]
    videos = [
        Video(f"c{k}", f"c{k}.mp4", tuple(np.array(CLASSES)[targets[k]]), split[k], f"g{k // 3}")
        for k in range(N)
    ]
    clips = tuple(ExtractedClip(v, f"{v.id}.st", ("spatial",), {}) for v in videos)
    table = Table.of(
        {"spatial": np.zeros((N, 1))},
        targets=Targets.from_dense(targets, multi_label=multi_label),
        groups=[video.group for video in videos],
        splits=split,
        ids=[video.id for video in videos],
    )
    inputs = EmbeddedClips(clips, table, table)
    settings = parse_settings("", ["--storage", str(tmp_path), *arguments])
    root = Storage(tmp_path)
    job = SimpleNamespace(
        settings=settings,
        console=Console(),
        manifest=Manifest(tuple(videos), CLASSES, multi_label, "made"),
        files=root.join("run"),
        stage=lambda name, key, work, **_: run_stage(root, name, key, work),
    )
    monkeypatch.setattr(step, "collect_scores", lambda *_, **__: dict(systems))
    monkeypatch.setattr(step, "few_threads", lambda table: None)
    kept = {}
    monkeypatch.setattr(
        step, "_register", lambda job, trained, tuned, stage, figures: kept.update(
            refinement=step._read_refinement(stage)) or "1"
    )  # fmt: skip
    tuned = SimpleNamespace(inputs=inputs, fusion=SimpleNamespace(fingerprint="f"))
    return step.evaluate(job, None, {}, tuned), kept["refinement"], job, tuned


def test_auto_finds_the_learned_refinement_and_registers_it(tmp_path, monkeypatch):
    targets, systems = clips()
    evaluated, refinement, job, tuned = job_of(tmp_path, monkeypatch, targets, systems)
    assert evaluated.choice["method"] == "learned" == refinement.name
    assert "by cross-validation" in evaluated.choice["reason"]
    names = {"refined_confusion", "refined_dasd", "refined_learned", "refined", "hybrid"}
    assert names <= set(evaluated.scores) and names <= set(evaluated.figures)
    gain = evaluated.figures["refined"].measures["accuracy"]
    assert gain > evaluated.figures["hybrid"].measures["accuracy"] + 0.05
    # What is registered gives the scores that were evaluated, also for clips without the LSTM's.
    given = {
        name: np.where(one.present[:, None], one.scores, np.nan) for name, one in systems.items()
    }
    np.testing.assert_allclose(
        refinement.predict_scores(given), evaluated.scores["refined"].scores, atol=1e-12
    )
    on_test = {n: s.part(tuned.inputs.table.rows("test")) for n, s in evaluated.scores.items()}
    rows = _methods(
        job, tuned, evaluated, on_test, tuned.inputs.table.targets[tuned.inputs.table.rows("test")]
    )
    assert [row.name for row in rows if row.chosen] == ["refined_learned"]
    assert {row.label for row in rows} >= {"Hybrid + DASD", "Hybrid + contextual refinement"}


def test_test_labels_change_no_score_and_no_choice(tmp_path, monkeypatch):
    targets, systems = clips()
    one, first, *_ = job_of(tmp_path / "one", monkeypatch, targets, systems)
    shuffled = targets.copy()
    on_test = np.arange(N) % 3 == 1
    shuffled[on_test] = np.random.default_rng(0).permutation(targets[on_test])
    two, second, *_ = job_of(tmp_path / "two", monkeypatch, shuffled, systems)
    assert one.choice == two.choice and first.to_bytes() == second.to_bytes()
    for name in one.scores:
        np.testing.assert_array_equal(one.scores[name].scores, two.scores[name].scores)
    assert one.figures["hybrid"] != two.figures["hybrid"]


def test_validation_labels_at_random_choose_none(tmp_path, monkeypatch):
    targets, systems = clips()
    targets = np.random.default_rng(5).permutation(targets)
    evaluated, refinement, *_ = job_of(tmp_path, monkeypatch, targets, systems)
    assert evaluated.choice["method"] == "none" and refinement is None
    assert chosen_row(evaluated) == "hybrid"
    np.testing.assert_array_equal(
        evaluated.scores["refined"].scores, evaluated.scores["hybrid"].scores
    )


def test_several_labels_are_not_harmed(tmp_path, monkeypatch):
    targets, systems = clips(multi_label=True)
    evaluated, *_ = job_of(tmp_path, monkeypatch, targets, systems, multi_label=True)
    maps = {name: figures.measures["map"] for name, figures in evaluated.figures.items()}
    assert maps["refined_confusion"] < maps["hybrid"] - 0.01
    assert evaluated.choice["method"] != "confusion"
    assert maps["refined"] >= maps["hybrid"] - 0.005


@pytest.mark.parametrize("method", ["none", "confusion", "dasd", "learned"])
def test_a_method_that_is_asked_for_is_taken(tmp_path, monkeypatch, method):
    targets, systems = clips()
    evaluated, refinement, *_ = job_of(
        tmp_path, monkeypatch, targets, systems, "--refinement.method", method
    )
    assert evaluated.choice["method"] == method
    assert (refinement.name if refinement else "none") == method
    source = "hybrid" if method == "none" else f"refined_{method}"
    np.testing.assert_array_equal(
        evaluated.scores["refined"].scores, evaluated.scores[source].scores
    )


def test_the_run_folder_has_scores_that_refine_py_reads(tmp_path, monkeypatch):
    targets, systems = clips()
    _, refinement, job, _ = job_of(tmp_path, monkeypatch, targets, systems)
    path = job.files.local(step.VALIDATION_SCORES)
    data = read_scores(path)
    assert data.given == "probabilities" and data.classes == CLASSES
    # Validation clips alone: two of three.
    assert len(data.table) == 240 and data.grouped_by == "array groups"
    settings = RefineSettings(output=str(tmp_path / "m.safetensors"), method="learned", folds=3)
    result = refine_scores(path, settings, Console())
    assert set(result.refinement.streams) == set(refinement.streams)
    np.testing.assert_array_equal(
        result.refinement.predict_scores(data.table), refinement.predict_scores(data.table)
    )


def test_without_validation_clips_nothing_is_refined(tmp_path, monkeypatch):
    targets, systems = clips()
    monkeypatch.setattr(
        Table, "rows",
        lambda self, split: np.flatnonzero(self.splits == split) if split != "val"
        else np.zeros(0, int),
    )  # fmt: skip
    evaluated, refinement, job, _ = job_of(tmp_path, monkeypatch, targets, systems)
    assert refinement is None and evaluated.choice["reason"] == "there are no validation clips"
    assert not job.files.exists(step.VALIDATION_SCORES)


def test_settings_come_from_the_command_line(tmp_path):
    settings = parse_settings("", ["--storage", str(tmp_path)])
    assert settings.refinement.method == "auto"
    other = parse_settings("", ["--refinement.method", "dasd"])
    assert other.refinement == replace(settings.refinement, method="dasd")

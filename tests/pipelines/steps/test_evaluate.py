"""The ensemble's refinement in the job: fitted and chosen on validation clips alone, then kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from actors.storage import Storage
from pipelines.cli.refine_settings import RefineSettings
from pipelines.cli.settings import parse_settings
from pipelines.data import Manifest, Video
from pipelines.data.score_file import read_score_file
from pipelines.report.gather import _methods
from pipelines.steps import evaluate, score
from pipelines.steps.console import Console
from pipelines.steps.evaluate import VALIDATION_SCORES, Evaluated, evaluate_system
from pipelines.steps.extract import ExtractedClip
from pipelines.steps.given import Given
from pipelines.steps.refine import refine_scores
from pipelines.steps.run import run_step
from pipelines.steps.step import StepResult, System, Work
from pipelines.steps.table import Embedded
from pipelines.systems.hybrid import hybrid
from trainers.evaluation import SystemScores
from trainers.parts import JoinPart, Scored
from trainers.refinement.fitted import FittedRefinement
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


@dataclass(frozen=True)
class Finished:
    """An evaluated system of one stream, and what would be registered."""

    evaluated: Evaluated
    part: JoinPart
    job: Any
    system: System

    @property
    def refinement(self) -> FittedRefinement | None:
        return self.part.refinement


def finish(tmp_path, monkeypatch, targets, systems, *arguments, multi_label=False) -> Finished:
    """Scores and evaluates made systems, without Ray, networks or MLflow."""
    split = np.array(["val", "test", "val"])[np.arange(N) % 3]
    videos = [
        Video(f"c{k}", f"c{k}.mp4", tuple(np.array(CLASSES)[targets[k]]), split[k], f"g{k // 3}")
        for k in range(N)
    ]
    table = Table.of(
        {"spatial": np.zeros((N, 1))},
        targets=Targets.from_dense(targets, multi_label=multi_label),
        groups=[video.group for video in videos],
        splits=split,
        ids=[video.id for video in videos],
    )
    root = Storage(tmp_path)
    options = ["--storage", str(tmp_path), "--streams", "spatial", *arguments]
    settings = parse_settings("", options)
    manifest = Manifest(tuple(videos), CLASSES, multi_label, "made")
    clips = tuple(ExtractedClip(v, f"{v.id}.st", ("frames",), {}) for v in videos)
    given = Given(manifest, clips, root, "extraction", seed=0)
    job: Any = SimpleNamespace(
        settings=settings,
        console=Console(),
        manifest=manifest,
        storage=root,
        files=root.join("run"),
        tracker=MagicMock(),
        run=None,
        given=given,
        note=lambda *_, **__: None,
    )
    monkeypatch.setattr(score, "read_table", lambda *_: Embedded(table, {}))
    monkeypatch.setattr(score, "_single_scores", lambda *_: dict(systems))
    monkeypatch.setattr(score, "few_threads", lambda table: None)
    system = hybrid(settings.system_settings, given)
    step = system.step("scores")
    results = {name: StepResult(name, "mark", root, {}, 0.0, False) for name in step.needs}
    results["scores"] = run_step(job, step, results)
    parts = {}

    def register(job, system, results, figures, test):
        loaded = step.load(Work(job, step, results["scores"].storage, results))
        parts.update({one.name: one.part for one in loaded})
        return "1"

    monkeypatch.setattr(evaluate, "_register", register)
    return Finished(evaluate_system(job, system, results), parts["refined"], job, system)


def test_auto_finds_the_learned_refinement_and_registers_it(tmp_path, monkeypatch):
    targets, systems = clips()
    done = finish(tmp_path, monkeypatch, targets, systems)
    evaluated, refinement = done.evaluated, done.refinement
    assert evaluated.final.choice["method"] == "learned" == refinement.name
    assert evaluated.final.chosen == "refined_learned"
    assert "by cross-validation" in evaluated.final.choice["reason"]
    names = {"refined_confusion", "refined_dasd", "refined_learned", "refined", "hybrid"}
    assert names <= set(evaluated.final.scores) and names <= set(evaluated.figures)
    gain = evaluated.figures["refined"].measures["accuracy"]
    assert gain > evaluated.figures["hybrid"].measures["accuracy"] + 0.05
    # What is registered gives the scores that were evaluated, also for clips without the LSTM's.
    given = {
        name: np.where(one.present[:, None], one.scores, np.nan) for name, one in systems.items()
    }
    np.testing.assert_allclose(
        refinement.predict_scores(given), evaluated.final.scores["refined"].scores, atol=1e-12
    )
    for row in range(20):
        inputs = {n: Scored(one.scores[row]) for n, one in systems.items() if one.present[row]}
        scored = done.part(None, inputs)
        np.testing.assert_allclose(
            scored.scores, evaluated.final.scores["refined"].scores[row], atol=1e-6
        )
    test = evaluated.table.rows("test")
    on_test = {n: s.part(test) for n, s in evaluated.final.scores.items()}
    rows = _methods(done.job, done.system, evaluated, on_test, evaluated.table.part(test))
    assert [row.name for row in rows if row.chosen] == ["refined_learned"]
    assert {row.label for row in rows} >= {"Hybrid + DASD", "Hybrid + contextual refinement"}


def test_test_labels_change_no_score_and_no_choice(tmp_path, monkeypatch):
    targets, systems = clips()
    first = finish(tmp_path / "one", monkeypatch, targets, systems)
    shuffled = targets.copy()
    on_test = np.arange(N) % 3 == 1
    shuffled[on_test] = np.random.default_rng(0).permutation(targets[on_test])
    second = finish(tmp_path / "two", monkeypatch, shuffled, systems)
    one, two = first.evaluated, second.evaluated
    assert one.final.choice == two.final.choice and first.part.to_bytes() == second.part.to_bytes()
    for name, scored in one.final.scores.items():
        np.testing.assert_array_equal(scored.scores, two.final.scores[name].scores)
    assert one.figures["hybrid"] != two.figures["hybrid"]


def test_validation_labels_at_random_choose_none(tmp_path, monkeypatch):
    targets, systems = clips()
    targets = np.random.default_rng(5).permutation(targets)
    done = finish(tmp_path, monkeypatch, targets, systems)
    evaluated = done.evaluated
    assert evaluated.final.choice["method"] == "none" and done.refinement is None
    assert evaluated.final.chosen == "hybrid"
    np.testing.assert_array_equal(
        evaluated.final.scores["refined"].scores, evaluated.final.scores["hybrid"].scores
    )


def test_several_labels_are_not_harmed(tmp_path, monkeypatch):
    targets, systems = clips(multi_label=True)
    evaluated = finish(tmp_path, monkeypatch, targets, systems, multi_label=True).evaluated
    maps = {name: figures.measures["map"] for name, figures in evaluated.figures.items()}
    assert maps["refined_confusion"] < maps["hybrid"] - 0.01
    assert evaluated.final.choice["method"] != "confusion"
    assert maps["refined"] >= maps["hybrid"] - 0.005


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "confusion", "dasd", "learned"])
def test_a_method_that_is_asked_for_is_taken(tmp_path, monkeypatch, method):
    targets, systems = clips()
    done = finish(tmp_path, monkeypatch, targets, systems, "--refinement.method", method)
    evaluated, refinement = done.evaluated, done.refinement
    assert evaluated.final.choice["method"] == method
    assert (refinement.name if refinement else "none") == method
    source = "hybrid" if method == "none" else f"refined_{method}"
    np.testing.assert_array_equal(
        evaluated.final.scores["refined"].scores, evaluated.final.scores[source].scores
    )


@pytest.mark.slow
def test_the_run_folder_has_scores_that_refine_py_reads(tmp_path, monkeypatch):
    targets, systems = clips()
    done = finish(tmp_path, monkeypatch, targets, systems)
    refinement, path = done.refinement, done.job.files.local(VALIDATION_SCORES)
    data = read_score_file(path)
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
    done = finish(tmp_path, monkeypatch, targets, systems)
    assert done.refinement is None
    assert done.evaluated.final.choice["reason"] == "there are no validation clips"
    assert not done.job.files.exists(VALIDATION_SCORES)


def test_settings_come_from_the_command_line(tmp_path):
    settings = parse_settings("", ["--storage", str(tmp_path)])
    assert settings.system_settings.refinement.method == "auto"
    other = parse_settings("", ["--refinement.method", "dasd"])
    refinement = settings.system_settings.refinement
    assert other.system_settings.refinement == replace(refinement, method="dasd")

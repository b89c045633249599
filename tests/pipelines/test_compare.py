"""compare.py: its command line, its tables and, on made features, its rows through Ray."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.command_line import read_data
from pipelines.cli.compare_options import ComparisonOptions, parse_choice, read_comparison, variants
from pipelines.cli.model_settings import TrackingSettings
from pipelines.cli.settings import Settings, parse_settings
from pipelines.data import Manifest
from pipelines.report.compared import summarize
from pipelines.report.comparison import (
    Comparison,
    comparison_html,
    escape,
    precision_figure,
    terminal_tables,
    to_csv,
    to_latex,
)
from pipelines.steps.compare import ComparedSplit, chosen_rows, run_rows
from pipelines.steps.console import Console
from pipelines.steps.job import Job
from pipelines.steps.step import StepResult
from pipelines.systems.hybrid_rows import TABLES, Members, row_names
from pipelines.systems.hybrid_tables import rows
from pipelines.systems.rows import PrecisionFigure, RowInputs, RowResult, TableRow, Tables
from pipelines.tracking.runs import Tracker
from trainers.evaluation import SystemScores, ensemble_scores
from trainers.settings import FusionSettings
from trainers.table import Table
from trainers.targets import Targets

STREAMS = ("spatial", "audio")
SOME_STREAMS = ("--streams", ",".join(STREAMS))
METHODS = ("table1", "spatial_svm", "svm_ef", "fusion_plain", "fusion", "table3")


def test_own_options_leave_the_settings_alone() -> None:
    choice, rest = parse_choice(
        ["--storage", "x", "--splits.number", "2", "--splits", "1,3", "--methods=rdnn,svm_mkl"]
    )
    assert choice == ComparisonOptions(("rdnn", "svm_mkl"), None, (1, 3))
    assert rest == ["--storage", "x", "--splits.number", "2"]
    assert parse_settings("", rest).splits.number == 2
    for wrong in (
        ["--folds", "x"],
        ["--splits", "a"],
        ["--splits", "1,1"],
        ["--folds", "2", "--splits", "1"],
    ):
        with pytest.raises(UserError):
            parse_choice(wrong)


def test_folds_and_splits_become_settings_of_their_own() -> None:
    own = Settings(data="x", format="ucf101")
    assert variants(own, ComparisonOptions()) == [("as given", own)]
    folds = variants(own, ComparisonOptions(folds=3))
    assert [(s.splits.folds, s.splits.fold) for _, s in folds] == [(3, 1), (3, 2), (3, 3)]
    splits = variants(own, ComparisonOptions(splits=(1, 3)))
    assert [(name, s.splits.number) for name, s in splits] == [("split 1", 1), ("split 3", 3)]


@pytest.mark.parametrize(
    ("arguments", "choice", "words"),
    [
        (
            ["--format", "folders", "--data", "x"],
            ComparisonOptions(splits=(1, 2)),
            "no numbered splits",
        ),
        (["--splits.test_pattern", "g01"], ComparisonOptions(folds=3), "choose one test split"),
        ([], ComparisonOptions(folds=1), "at least 2"),
    ],
)
def test_cuts_that_can_not_be_had_are_refused(arguments, choice, words) -> None:
    with pytest.raises(UserError, match=words):
        variants(parse_settings("", arguments), choice)


def test_methods_are_named_by_row_or_table() -> None:
    settings = Settings()
    assert [r.name for r in chosen_rows(settings, ["rdnn"])] == ["rdnn", "hybrid"]
    assert {r.table for r in chosen_rows(settings, ["table1"])} == {1, 3}
    assert len(chosen_rows(settings, [])) == 25
    with pytest.raises(UserError, match="svm_mkl"):
        chosen_rows(settings, ["svm_mlk"])


@pytest.mark.parametrize(
    "streams", ["spatial,motion,audio", "spatial,audio", "spatial,motion", "motion", "audio"]
)
def test_names_are_those_of_the_rows(streams: str) -> None:
    members = Members.of(parse_settings("", ["--streams", streams]).system_settings)
    assert row_names(members) == [row.name for row in rows(members)]


def table_of(folder: Path, **groups: list[str]) -> list[str]:
    """Options that name a table of clips: class -> the group of each of its clips."""
    lines = ["path,label,group"]
    for label, names in groups.items():
        for n, group in enumerate(names):
            (folder / f"{label}{n}.mp4").write_bytes(b"x")
            lines.append(f"{label}{n}.mp4,{label},{group}")
    table = folder / "clips.csv"
    table.write_text("\n".join(lines))
    return ["--data", str(table), "--format", "csv"]


def test_every_split_is_read_before_any_work(tmp_path: Path) -> None:
    cut = table_of(tmp_path, run=["a", "b", "c", "a", "b", "c"], walk=["a", "b", "c", "c"])
    plans = read_comparison("", [*cut, "--folds", "3"]).plans
    tested = [{v.id for v in p.manifest.split("test")} for p in plans if p.manifest is not None]
    assert len(tested) == 3 and len(set.union(*tested)) == sum(map(len, tested)) == 10


def test_a_later_fold_without_a_class_is_found_before_any_work(tmp_path: Path) -> None:
    cut = table_of(tmp_path, run=[*"aaaaaabbbdddeee"], walk=["z", "z"])
    settings = parse_settings("", cut)
    (_, first), *_ = variants(settings, ComparisonOptions(folds=3))
    assert read_data(first) is not None
    with pytest.raises(UserError, match="'walk'"):
        read_comparison("", [*cut, "--folds", "3"])


def test_an_unknown_method_is_found_before_the_data_are_read() -> None:
    with pytest.raises(UserError, match="no method 'svm_mlk'.*did you mean 'svm_mkl'"):
        read_comparison("", ["--data", "nowhere", "--methods", "svm_mlk"])


def make_inputs(seed: int = 0, n: int = 72) -> RowInputs:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    targets = np.eye(3, dtype=np.float32)[labels]
    present = {"spatial": np.ones(n, bool), "audio": random.random(n) < 0.7}
    features = {
        s: np.maximum(2 * targets @ np.ones((3, 5)) * 0.1 + targets[:, [0, 1, 2, 0, 1]], 0)
        + 0.4 * random.random((n, 5))
        for s in STREAMS
    }

    def system(there: np.ndarray, strength: float) -> SystemScores:
        scores = random.dirichlet(np.ones(3), n) + strength * targets
        return SystemScores((scores / scores.sum(1, keepdims=True)) * there[:, None], there)

    systems = {"spatial_cnn": system(present["spatial"], 0.3)}
    systems["spatial_lstm"] = system(present["spatial"], 0.5)
    systems["audio_cnn"] = system(present["audio"], 0.1)
    systems["fusion"] = system(present["spatial"], 0.8)
    systems["hybrid"] = ensemble_scores(systems, ("spatial_lstm", "fusion"))
    return RowInputs(
        table=Table.of(
            {s: v.astype(np.float32) for s, v in features.items()},
            present,
            Targets.from_classes(labels, 3),
            groups=[f"g{row // 6}" for row in range(n)],
            splits=np.repeat(["train", "val", "test"], [36, 12, n - 48]),
        ),
        systems=systems,
        settings=FusionSettings(hidden=6, max_epochs=8),
        seed=0,
    )


@contextmanager
def open_small_job(root: Path) -> Iterator[Job]:
    """A job without videos: what `run_rows` needs, and no more."""
    storage = Storage(root)
    tracker = Tracker(TrackingSettings(), storage)
    tracker.check()
    settings = parse_settings("", ["--storage", str(root), *SOME_STREAMS])
    with tracker.parent("small", "0" * 12) as run:
        job = Job(
            settings=settings,
            storage=storage,
            console=Console(),
            manifest=Manifest((), ("a", "b", "c"), False, "small"),
            fingerprint="0" * 12,
            files=storage.join("runs", "small"),
            tracker=tracker,
            run=run,
            command="pipelines/compare.py",
            started=datetime.now(UTC),
        )
        with job._stack:
            yield job


@pytest.mark.ray
@pytest.mark.slow
def test_rows_run_side_by_side_and_are_kept(tmp_path: Path, monkeypatch, capsys) -> None:
    chosen = chosen_rows(parse_settings("", SOME_STREAMS), METHODS)
    inputs = make_inputs()
    scored = StepResult("scores", "mark", Storage(tmp_path), {}, 0.0, False)
    with open_small_job(tmp_path) as job:
        first = run_rows(job, "as given", chosen, inputs, scored)
        lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("✓")]
        labels = [row.label for row in chosen]
        told = [re.fullmatch(r"✓ compare\.(\w+) +[\d.]+ s +(.*)", line) for line in lines]
        assert sorted(one[1] for one in told) == sorted(row.name for row in chosen)
        assert sorted(one[2].partition(": ")[0] for one in told) == sorted(labels)
        runs = job.tracker.client.search_runs([job.tracker.experiment])
        names = {run.data.tags.get("multiclue.child") for run in runs}
        assert {f"compare.{row.name}" for row in chosen} <= names
        (svm,) = [r for r in runs if r.data.tags.get("multiclue.child") == "compare.svm_ef"]
        assert svm.data.metrics["accuracy"] > 0.6 and "C" in svm.data.params
        # Killed after all but one row: only that one is done again.
        (lost,) = (tmp_path / "stages").glob("compare.svm_ef-*")
        (lost / "done.json").unlink()
        done = []
        monkeypatch.setattr(
            "pipelines.steps.compare._Shared.compute",
            lambda self, row: (done.append(row.name), (first.scores[row.name], {}, 0.0))[1],
        )
        again = run_rows(job, "as given", chosen, inputs, scored)
    assert done == ["svm_ef"]
    for name, scores in first.scores.items():
        np.testing.assert_array_equal(again.scores[name], scores)
    comparison = summarize(
        [first, first],
        chosen,
        tables=TABLES,
        data="small",
        command="compare",
        classes=("a", "b", "c"),
        multi_label=False,
    )
    _check_forms(comparison)
    once = summarize(
        [first],
        chosen,
        tables=TABLES,
        data="",
        command="",
        classes=("a", "b", "c"),
        multi_label=False,
    )
    for one, twice in zip(once.rows, comparison.rows, strict=True):
        if one.name != "hybrid":
            assert (one.p_mcnemar, one.p_bootstrap) == (twice.p_mcnemar, twice.p_bootstrap)
            assert (one.map_low, one.map_high) == pytest.approx((twice.map_low, twice.map_high))


def _check_forms(comparison: Comparison) -> None:
    """Every form of the tables says the same."""
    by_name = {row.name: row for row in comparison.rows}
    hybrid, svm = by_name["hybrid"], by_name["svm_ef"]
    assert hybrid.p_mcnemar is None and svm.p_mcnemar is not None
    assert svm.accuracy_spread == 0 and 0 <= svm.accuracy <= 1
    assert svm.map_low <= svm.map_difference <= svm.map_high
    assert (svm.ucf101, svm.ccv) == (0.869, 0.759)
    parsed = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [row["name"] for row in parsed] == [row.name for row in comparison.rows]
    assert float(parsed[0]["accuracy"]) == comparison.rows[0].accuracy
    written = f"{100 * svm.accuracy:.1f}"
    assert written in to_latex(comparison, 2) and "svm" not in to_latex(comparison, 1).lower()
    page = comparison_html(comparison)
    assert "SVM-EF" in page and written in page and "<svg" in page
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    tables = terminal_tables(comparison)
    assert len(tables) == 3 and "paper's own figures" in str(tables[-1].caption)
    for table in tables:
        headings = [str(column.header) for column in table.columns]
        assert headings[-2:] == ["UCF-101 (paper)", "CCV (paper)"]
    assert len(precision_figure(comparison).axes[0].patches) == 6
    again = re.findall(r"\\\\", to_latex(comparison, 3))
    assert len(again) == 1 + sum(row.table == 3 for row in comparison.rows)


def test_another_systems_tables_are_about_its_own_rows() -> None:
    """The reference, the titles and the figure are the system's; nothing is called hybrid."""
    random = np.random.default_rng(0)
    tables = Tables(
        {1: "Table 7: all"}, "whole", "chain", PrecisionFigure(9, "smoothed", "smoothing")
    )
    known = [
        TableRow(name, name.upper(), 1, "-", lambda _: RowResult(np.zeros((0, 3)), {}))
        for name in ("part", "whole", "smoothed")
    ]
    split = ComparedSplit(
        name="one",
        ids=tuple(f"c{n}" for n in range(12)),
        targets=Targets.from_classes(np.arange(12) % 3, 3),
        groups=np.array([f"g{n // 2}" for n in range(12)]),
        scores={row.name: random.dirichlet(np.ones(3), 12) for row in known},
        facts={row.name: {"chosen": {}, "seconds": 0.0} for row in known},
    )
    classes = ("a", "b", "c")
    comparison = summarize(
        [split], known, tables=tables, data="small", command="", classes=classes, multi_label=False
    )
    assert comparison.title == "small: the chain and what it is compared with"
    tested = {row.name: row.p_mcnemar is not None for row in comparison.rows}
    assert tested == {"part": True, "whole": False, "smoothed": True}
    (table,) = terminal_tables(comparison)
    assert table.title == "Table 7: all" and "row against the chain" in str(table.caption)
    legend = precision_figure(comparison).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["chain", "with smoothing"]
    page = comparison_html(comparison)
    assert "Figure 9: average precision of each class with and without smoothing" in page
    assert "hybrid" not in page and tables.names == ("table1",)


def test_latex_takes_any_text() -> None:
    assert escape("50 % ± a_b & <1") == r"50 \% $\pm$ a\_b \& $<$1"
    assert escape(r"a\b~c^2 > {#1} $") == (
        r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}2 $>$ \{\#1\} \$"
    )

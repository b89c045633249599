"""The gate: who becomes champion, and what is said about it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from small_hybrid import CLASSES, make_hybrid, write_clip

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.arguments import parse_arguments
from pipelines.cli.launch import main_guard
from pipelines.cli.model_settings import PromoteSettings, RegistrySettings, TrackingSettings
from pipelines.data import Video
from pipelines.promote import main
from pipelines.steps.console import Console
from pipelines.tracking.promotion import promote, promote_version, rows_accuracy, rows_map
from pipelines.tracking.registry import Evaluation, find_version, register
from pipelines.tracking.runs import Tracker
from trainers.model_files import save


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("gate"))
    save(make_hybrid(), storage.join("model"))
    return storage


@pytest.fixture(scope="module")
def tracker(storage) -> Tracker:
    return Tracker(TrackingSettings(uri=f"sqlite:///{storage.path('gate.db')}"), storage)


@pytest.fixture
def gate(storage, tracker, request):
    return Gate(storage, tracker, f"model_{request.node.originalname}_{id(request)}")


class Gate:
    """One registered model's versions, and the job that compares them."""

    def __init__(self, storage: Storage, tracker: Tracker, name: str) -> None:
        self.storage, self.tracker, self.name, self.count = storage, tracker, name, 0
        first = str(write_clip(storage.local("clips/first.mp4")))
        second = str(write_clip(storage.local("clips/second.mp4"), seed=3))
        self.videos = [
            Video("a", first, ("boxing",), "test", "g1"),
            Video("b", second, ("clapping",), "test", "g2"),
        ]

    def add(self, score: float, videos: list[Video] | None = None) -> str:
        self.count += 1
        evaluation = Evaluation(
            {"score": score, "accuracy": score}, videos or self.videos, multi_label=False
        )
        with self.tracker.parent("job", f"{self.name}-{self.count}") as run:
            return register(
                self.tracker,
                run,
                self.storage.join("model"),
                evaluation,
                RegistrySettings(name=self.name),
            )

    def promote(self, *, margin: float = 0.0, **options) -> dict:
        settings = PromoteSettings(
            storage=self.storage.path(),
            registry=RegistrySettings(name=self.name, margin=margin),
            tracking=self.tracker.settings,
            **options,
        )
        return promote(settings)

    def champion(self) -> str | None:
        found = find_version(self.tracker.client, self.name, "champion")
        return None if found is None else str(found.version)


def test_the_first_version_must_beat_chance(gate):
    gate.add(0.5)
    decided = gate.promote()
    assert not decided["promoted"] and gate.champion() is None
    assert decided["reason"] == (
        "version 1 was not promoted: there was no champion, and its accuracy of 0.5000 is not "
        "above chance (0.5000)"
    )
    gate.add(0.6)
    decided = gate.promote()
    assert decided["promoted"] and gate.champion() == "2"
    assert decided["metrics"] == {"challenger": 0.6, "chance": 0.5}
    assert decided["champion"] is None and decided["challenger"] == "2"


def test_only_a_better_version_follows(gate):
    gate.add(0.8)
    gate.promote()
    again = gate.promote()
    assert not again["promoted"] and again["reason"] == "version 1 is already the champion"
    gate.add(0.8)
    equal = gate.promote()
    assert not equal["promoted"] and gate.champion() == "1"
    assert (
        "its accuracy is 0.8000, 0.8000 for version 1, on the same test videos" in (equal["reason"])
    )
    gate.add(0.81)
    better = gate.promote()
    assert better["promoted"] and gate.champion() == "3"
    assert "(+0.0100)" in better["reason"]
    assert better["metrics"] == {"challenger": 0.81, "champion": 0.8}
    kept = gate.tracker.client.get_model_version(gate.name, "3").tags["decision"]
    assert kept == better["reason"]


def test_the_margin(gate):
    gate.add(0.8)
    gate.promote()
    gate.add(0.85)
    short = gate.promote(margin=0.06)
    assert not short["promoted"] and "(+0.0500, 0.0600 is required)" in short["reason"]
    assert gate.promote(margin=0.05)["promoted"]


def test_dry_run_and_force(gate):
    gate.add(0.8)
    would = gate.promote(dry_run=True)
    assert not would["promoted"] and gate.champion() is None
    assert would["reason"].startswith("version 1 would be promoted: ")
    gate.promote()
    gate.add(0.7)
    would = gate.promote(dry_run=True)
    assert would["reason"].startswith("version 2 would not be promoted: ")
    forced = gate.promote(force=True)
    assert forced["promoted"] and gate.champion() == "2"
    assert "promoted by --force" in forced["reason"]
    back = gate.promote(version="1")
    assert back["promoted"] and gate.champion() == "1" and back["champion"] == "2"


@pytest.mark.slow
def test_a_champion_tested_on_other_videos_is_scored_again(gate):
    gate.add(0.99)
    gate.promote()
    told = make_hybrid().predict([video.path for video in gate.videos])
    named = [CLASSES[one.decision.probabilities.argmax()] for one in told]
    other = [
        Video("c", gate.videos[0].path, (named[0],), "test", "g1"),
        Video("d", gate.videos[1].path, (named[1],), "test", "g2"),
        Video("e", gate.videos[1].path, ("no class of the champion",), "test", "g2"),
        Video("f", gate.videos[0].path, ("another such class",), "test", "g1"),
    ]
    gate.add(0.6, other)
    decided = gate.promote()
    assert decided["promoted"]
    assert decided["metrics"] == {"challenger": 0.6, "champion": 0.5}
    assert "scored again on its test videos" in decided["reason"]


def test_videos_that_are_gone_prevent_a_comparison(gate, tmp_path):
    gate.add(0.8)
    gate.promote()
    gone = write_clip(tmp_path / "gone.mp4")
    gate.add(0.9, [Video("z", str(gone), ("boxing",), "test", "g")])
    gone.unlink()
    decided = gate.promote()
    assert not decided["promoted"] and gate.champion() == "1"
    assert f"1 of the 1 new ones no longer exist, such as {gone}" in decided["reason"]
    assert gate.promote(force=True)["promoted"]


def test_versions_that_cannot_be_compared_are_the_users_mistake(gate):
    with pytest.raises(UserError, match="has no version 'challenger'"):
        gate.promote()
    gate.tracker.client.create_registered_model(gate.name)
    gate.tracker.client.create_model_version(gate.name, source=gate.storage.uri)
    with pytest.raises(UserError, match="has no test score: it was not registered by"):
        gate.promote(version="1")


def row(labels: list[str], probabilities: list[float]) -> dict:
    return {"label": labels[0] if labels else "", "labels": labels, "probabilities": probabilities}


def test_rows_are_judged_by_name_and_unusable_videos_count_as_wrong():
    rows = [row(["b", "a"], [0.7, 0.3]), row([], []), row(["a", "b"], [0.6, 0.4])]
    assert rows_accuracy(rows, [["b"], ["a"], ["b"]]) == pytest.approx(1 / 3)


def test_mean_average_precision_by_name():
    rows = [row(["b", "a"], [0.9, 0.8]), row(["a", "x"], [0.7, 0.6]), row([], [])]
    # a: right at ranks 1 and 2 of 0.8, 0.7; b: found first; c: a class nobody scores.
    assert rows_map(rows, [["a", "b"], ["a"], []]) == pytest.approx(1.0)
    assert rows_map(rows, [["b"], ["b"], []]) == pytest.approx((1 + 2 / 3) / 2, abs=0.2)


def test_the_command_line():
    settings, _ = parse_arguments(
        PromoteSettings, "", ["--dry-run", "--force", "false", "--registry.margin", "0.1"]
    )
    assert settings.dry_run and not settings.force and settings.registry.margin == 0.1
    for words, message in (
        (["--registry.margin", "2"], "registry.margin must be in"),
        (["--verion", "1"], r"there is no option --verion; did you mean '--version'"),
        (["word"], "'word' is no option"),
    ):
        with pytest.raises(UserError, match=message):
            parse_arguments(PromoteSettings, "", words)


def test_a_training_job_ends_with_it(gate, capsys):
    number = gate.add(0.8)
    job = SimpleNamespace(
        settings=SimpleNamespace(
            storage=gate.storage.path(),
            registry=RegistrySettings(name=gate.name),
            tracking=gate.tracker.settings,
        ),
        tracker=gate.tracker,
        storage=gate.storage,
        console=Console(),
    )
    decided = promote_version(job, number)
    assert decided["promoted"] and gate.champion() == number
    assert "version 1 is now the champion" in " ".join(capsys.readouterr().out.split())
    again = promote_version(job, number)
    assert again["promoted"] and "is already the champion" in again["reason"]


def test_exit_codes(gate, monkeypatch, capsys):
    gate.add(0.2)
    words = ["--storage", gate.storage.path(), "--tracking.uri", gate.tracker.uri]

    def code(name: str) -> int:
        monkeypatch.setattr(sys, "argv", ["promote.py", *words, "--registry.name", name])
        with pytest.raises(SystemExit) as ended:
            main_guard(lambda: main(parse_arguments(PromoteSettings, "")[0]))
        return ended.value.code

    assert code(gate.name) == 0
    told = capsys.readouterr()
    assert "version 1 was not promoted" in " ".join(told.out.split()) and told.err == ""
    assert code("unknown") == 2
    told = capsys.readouterr()
    assert told.err.startswith("multiclue: the model 'unknown' at") and "Trace" not in told.err

"""Running steps: each as soon as what it needs is finished; a finished one is not run again."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from actors.storage import Storage
from pipelines.steps.run import run, run_step, step_fingerprint
from pipelines.steps.step import Row, Step, System


class Run:
    """Keeps what a step logs."""

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}

    def log_params(self, values):
        self.logged["params"] = values

    def log_curve(self, values):
        self.logged["curve"] = values

    def log_metrics(self, values):
        self.logged["metrics"] = values


class Tracker:
    def __init__(self) -> None:
        self.children: dict[str, Run] = {}

    @contextmanager
    def child(self, parent, name):
        yield self.children.setdefault(name, Run())


@dataclass
class SmallJob:
    """What `run` uses of a job."""

    storage: Storage
    tracker: Tracker = field(default_factory=Tracker)
    run: Any = None
    lines: list[tuple[str, bool, str]] = field(default_factory=list)

    def note(self, result, *, items=None, unit="clips", text=""):
        self.lines.append((result.name, result.cached, text))


@dataclass(frozen=True)
class Settings:
    lr: float = 0.1


@pytest.fixture
def job(tmp_path):
    return SmallJob(Storage(tmp_path))


def step(name, work=lambda work: {}, **options):
    return Step(name, work, **options)


def test_a_finished_step_is_not_run_again(job):
    runs = []

    def work(work):
        work.storage.write_bytes("result", b"r")
        runs.append(work.storage.path())
        return {"clips": 3}

    one = step("fit", work, describe=lambda facts: f"{facts['clips']} clips")
    first = run(job, [one])["fit"]
    again = run(job, [one])["fit"]
    assert runs == [first.storage.path()]
    assert (first.cached, again.cached) == (False, True)
    assert again.facts == first.facts == {"clips": 3}
    assert (again.seconds, again.fingerprint) == (first.seconds, first.fingerprint)
    assert again.storage.read_bytes("result") == b"r"
    assert job.lines == [("fit", False, "3 clips"), ("fit", True, "3 clips")]
    assert first.storage.path().endswith(f"stages/fit-{first.fingerprint}")


def test_version_settings_data_name_and_inputs_each_make_another_fingerprint():
    def mark(one, *needed):
        return step_fingerprint(one, {r.name: r for r in needed})

    base = step("fit", settings=Settings(), data={"clips": ["a"]}, needs=("embed",))
    embed = Result("embed", "1")
    marks = {
        mark(base, embed),
        mark(replace(base, name="other"), embed),
        mark(replace(base, version=2), embed),
        mark(replace(base, settings=Settings(lr=0.2)), embed),
        mark(replace(base, data={"clips": ["b"]}), embed),
        mark(base, Result("embed", "2")),
        mark(replace(base, needs=()), embed),
    }
    assert len(marks) == 7
    assert mark(replace(base, describe=str, items=3, unit="x", job="tune"), embed) == mark(
        base, embed
    )


def test_the_order_of_the_needed_steps_counts():
    marks = [
        step_fingerprint(step("fusion", needs=needs), {name: Result(name, name) for name in needs})
        for needs in (("a", "b"), ("b", "a"))
    ]
    assert marks[0] != marks[1]


def test_a_step_whose_needs_are_never_run_is_refused(job):
    with pytest.raises(ValueError, match="not run: \\['fit'\\]"):
        run(job, [step("extract"), step("fit", needs=("lost",))])


@dataclass
class Result:
    name: str
    fingerprint: str


def test_a_new_version_runs_the_step_again(job):
    runs = []
    one = step("fit", lambda work: runs.append(1) or {})
    run(job, [one])
    run(job, [replace(one, version=2)])
    assert len(runs) == 2


def test_a_step_gets_the_results_that_it_needs_and_no_others(job):
    seen = {}
    steps = [
        step("a", lambda work: {"value": 1}),
        step("b", lambda work: {"value": 2}),
        step("c", lambda work: seen.update(work.results) or {}, needs=("a",)),
    ]
    results = run(job, steps)
    assert list(seen) == ["a"] and seen["a"].facts == {"value": 1}
    assert set(results) == {"a", "b", "c"}


def test_steps_that_need_nothing_of_each_other_run_side_by_side(job):
    meet = threading.Barrier(2, timeout=20)
    steps = [step(name, lambda work: {"met": meet.wait() >= 0}) for name in ("a", "b")]
    results = run(job, steps)
    assert all(one.facts["met"] for one in results.values())


def test_known_results_are_used_and_kept(job):
    first = run(job, [step("a", lambda work: {"value": 1})])
    both = run(
        job, [step("a", lambda work: pytest.fail("ran again")), step("b", needs=("a",))], first
    )
    assert both["a"] is first["a"] and set(both) == {"a", "b"}


def test_a_step_that_fails_is_not_marked_and_finds_what_it_left(job):
    def fails(work):
        work.storage.write_bytes("half", b"h")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        run(job, [step("fit", fails), step("later", needs=("fit",))])
    result = run_step(job, step("fit", lambda work: {"found": work.storage.names()}), {})
    assert (result.cached, result.facts) == (False, {"found": ["half"]})
    assert [line[0] for line in job.lines] == ["fit"]


def test_each_step_that_runs_has_an_mlflow_run_with_its_settings_curve_and_metrics(job):
    facts = {"history": [{"step": 1, "score": 0.5}], "metrics": {"zero": 0.25}}
    run(job, [step("fusion", lambda work: facts, settings=Settings())])
    logged = job.tracker.children["fusion"].logged
    assert logged["params"] == {"step": "fusion", "lr": 0.1}
    assert logged["curve"] == facts["history"] and logged["metrics"] == facts["metrics"]


def test_a_system_refuses_steps_out_of_order_and_of_one_name():
    def system(*steps, output="a"):
        return System("mine", "Mine", {}, steps, output, {"a": Row("A")})

    assert [one.name for one in system(step("a"), step("b", needs=("a",))).steps] == ["a", "b"]
    with pytest.raises(
        ValueError, match="'b' of system 'mine' needs a, which does not come before"
    ):
        system(step("b", needs=("a",)), step("a"))
    with pytest.raises(ValueError, match="two steps named 'a'"):
        system(step("a"), step("a"))
    with pytest.raises(ValueError, match="no step 'c'"):
        system(step("a"), output="c")
    with pytest.raises(ValueError, match="'b' needs a of a later job"):
        system(step("a", job="tune"), step("b", needs=("a",)))
    with pytest.raises(ValueError, match="'a' belongs to no job: 'tun'"):
        system(step("a", job="tun"))


def test_a_job_runs_its_own_steps_and_those_of_the_jobs_before_it():
    steps = (step("a"), step("b", job="tune"), step("c", job="evaluate"))
    system = System("mine", "Mine", {}, steps, "c", {})
    assert [[s.name for s in system.until(job)] for job in ("train", "tune", "evaluate")] == [
        ["a"],
        ["a", "b"],
        ["a", "b", "c"],
    ]
    assert system.step("b") is steps[1]

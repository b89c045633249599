"""A system as data: a tuple of steps that name their inputs and end in class scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actors.storage import Storage
from trainers.predictor import NamedPart

if TYPE_CHECKING:
    from pipelines.steps.job import Job
    from pipelines.tracking.runs import Run

Facts = dict[str, Any]
"""What a step reports, as JSON values. ``history`` (list of records with ``step``) becomes a curve
in the report and in MLflow, ``metrics`` (name -> number) become MLflow metrics. A search reports
``trials`` (list of records with ``lambda2``, ``lambda3`` and ``score``) and the best ``lambda2``,
``lambda3`` and ``score``, and keeps Ray Tune's folder as ``tune`` in its own; what it searched for
reports ``zero_rows`` and ``zero_entries``. The report draws them."""


@dataclass(frozen=True)
class StepResult:
    """A finished step.

    Args:
        name: of the step.
        fingerprint: of all that its result depends on.
        storage: its folder.
        facts: what it reported.
        seconds: that it took when it was run.
        cached: whether an earlier job ran it.
    """

    name: str
    fingerprint: str
    storage: Storage
    facts: Facts
    seconds: float
    cached: bool


@dataclass(frozen=True, eq=False)
class Work:
    """What a step's function is given.

    Args:
        job: settings, console, Ray and MLflow of the job.
        step: the step itself.
        storage: its folder, which may hold what an interrupted run left.
        results: step -> result, of the steps that it needs.
        run: its MLflow run.
    """

    job: Job
    step: Step
    storage: Storage
    results: Mapping[str, StepResult]
    run: Run | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One cached unit of work over the whole data set.

    Args:
        name: for instance ``spatial.fit``; names its folder, MLflow run, curve and settings group.
        run: does the work and returns its facts; a module-level function or a partial of one.
        settings: frozen dataclass; its fields that are not neutral are part of the fingerprint.
        needs: names of the steps whose results it uses.
        data: what it uses of the data set, as JSON values and arrays; part of the fingerprint.
        load: what it leaves for the prediction of one clip; None: nothing.
        version: increased when the step's results change; a cached result of another version is
            not used.
        job: the job that runs it: ``train``, ``tune`` or ``evaluate``.
        items: how many things it works on, for the report's table of times.
        unit: what these things are.
        describe: facts -> a few words for the console.
    """

    name: str
    run: Callable[[Work], Facts]
    settings: Any = None
    needs: tuple[str, ...] = ()
    data: Any = None
    load: Callable[[Work], tuple[NamedPart, ...]] | None = None
    version: int = 1
    job: str = "train"
    items: int | None = None
    unit: str = "clips"
    describe: Callable[[Facts], str] = field(default=lambda facts: "")


@dataclass(frozen=True)
class Row:
    """A row of the report: scores of a part of the system.

    Args:
        label: for tables, such as ``Spatial CNN``.
        streams: that its scores depend on.
        ordered: those of them that it sees as sequences, in the order of time.
    """

    label: str
    streams: tuple[str, ...] = ()
    ordered: tuple[str, ...] = ()


@dataclass(frozen=True)
class System:
    """Steps that end in class scores.

    The step ``output`` leaves what `pipelines.steps.score.score` leaves:

    - the file ``scores.safetensors``, for each row ``ROW.scores`` (N, C) float64 and
      ``ROW.present`` (N,) bool, of the N clips of `pipelines.steps.table.clip_table`;
    - the fact ``rows``: names of these rows, the answer among them;
    - where there is an ensemble, the facts ``ensemble`` (its row), ``members`` (the rows that it
      averages, which pipelines/refine.py can then work on) and ``choice`` (``method``, ``reason``,
      ``notes`` and ``measures`` of the refinement that makes the answer of it; the row
      ``refined_METHOD`` has the same scores).

    The class of the system's settings may have

    - ``streams``, a mapping from names to `StreamSettings`: they become options, are checked before
      work starts, and the report shows what they see;
    - ``tracks``, a property or class variable, where there are no ``streams``: names of the tracks
      that are extracted;
    - fields of the type `FusionSettings`, whose ``model`` is checked before work starts;
    - ``searched``, a property: whether training clips are cross-validated by group, which takes
      two groups of them;
    - ``main_options``, a class variable: names of the settings that ``--help`` shows.

    Args:
        name: for instance ``hybrid``.
        title: for instance ``Hybrid``, for the report.
        streams: stream -> its track, in the order in which they are listed.
        steps: each after the steps that it needs.
        output: the step whose scores are evaluated.
        rows: name of a row of the report -> the row, in the order of the table.
        embedding: part whose embedding is a clip's; default: the registered model gives none.
        answer: row of the output's scores that is registered; a part of the same name gives it.

    Raises:
        ValueError: two steps of one name, or a step that needs one that comes after it, or that
            belongs to a later job; a row of streams that the system lacks.
    """

    name: str
    title: str
    streams: Mapping[str, str]
    steps: tuple[Step, ...]
    output: str
    rows: Mapping[str, Row]
    embedding: str | None = None
    answer: str = "refined"

    def __post_init__(self) -> None:
        known: set[str] = set()
        jobs: dict[str, str] = {}
        for step in self.steps:
            if step.name in known:
                raise ValueError(f"system {self.name!r} has two steps named {step.name!r}")
            missing = [name for name in step.needs if name not in known]
            if missing:
                raise ValueError(
                    f"step {step.name!r} of system {self.name!r} needs {', '.join(missing)}, "
                    "which does not come before it"
                )
            if step.job not in JOBS:
                raise ValueError(f"step {step.name!r} belongs to no job: {step.job!r}")
            late = [n for n in step.needs if JOBS.index(jobs[n]) > JOBS.index(step.job)]
            if late:
                raise ValueError(f"step {step.name!r} needs {', '.join(late)} of a later job")
            known.add(step.name)
            jobs[step.name] = step.job
        if self.output not in known:
            raise ValueError(f"system {self.name!r} has no step {self.output!r} for its output")
        for name, row in self.rows.items():
            gone = [one for one in (*row.streams, *row.ordered) if one not in self.streams]
            if gone:
                raise ValueError(
                    f"row {name!r} of system {self.name!r} is of the stream {gone[0]!r}; the "
                    f"streams are {', '.join(self.streams) or 'none'}"
                )

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def until(self, job: str) -> tuple[Step, ...]:
        """The steps of a job and of the jobs before it."""
        jobs = JOBS[: JOBS.index(job) + 1]
        return tuple(step for step in self.steps if step.job in jobs)


JOBS = ("train", "tune", "evaluate")

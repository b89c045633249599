"""What the steps of a job share: settings, storage, data, console, MLflow run and Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from actors.storage import Storage
from pipelines.cli.settings import Settings
from pipelines.data import Manifest
from pipelines.report.data import StageTiming
from pipelines.steps.cluster import RAY_IMPORTS, ray_session
from pipelines.steps.console import Console
from pipelines.steps.run import run
from pipelines.steps.step import Step, StepResult, System
from pipelines.tracking.runs import Run, Tracker

if TYPE_CHECKING:
    from actors.pool.board import Board
    from pipelines.steps.extract import Extraction
    from pipelines.steps.given import Given
    from trainers.fit.pool import FitPool

T = TypeVar("T")

FITTING_MODULES = ("trainers.encoders.task", "trainers.sequence.task")
"""What workers that fit import while they wait. The system is not known then: a fit of another kind
imports its own module when it starts, and one that a system lacks costs nothing."""


@dataclass
class Job:
    """An open job; `pipelines.steps.opening.open_job` makes it.

    Args:
        fingerprint: of settings and data together; names the run folder and the MLflow run.
        files: the run folder: settings, tables, report.
        extraction: the usable clips, after `pipelines.steps.extract.extract`.
        given: these clips as a system is built for them.
        system: what is built for them.
        results: step -> result, of the steps that have been run.
    """

    settings: Settings
    storage: Storage
    console: Console
    manifest: Manifest
    fingerprint: str
    files: Storage
    tracker: Tracker
    run: Run
    command: str
    started: datetime
    warnings: Sequence[str] = ()
    timings: list[StageTiming] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks of the steps on how they worked, for the report."""
    extraction: Extraction | None = None
    given: Given | None = None
    system: System | None = None
    results: Mapping[str, StepResult] = field(default_factory=dict)
    _kept: dict[Any, Any] = field(default_factory=dict)
    _kept_lock: Any = field(default_factory=threading.RLock)
    _stack: ExitStack = field(default_factory=ExitStack)
    _ray_lock: Any = field(default_factory=threading.RLock)
    _board: Board | None = None
    _fits: FitPool | None = None

    def do(self, steps: Sequence[Step]) -> Mapping[str, StepResult]:
        """Runs the steps that have not been run in this job; returns all results."""
        self.results = run(self, steps, self.results)
        self.end_fits()
        return self.results

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` returns, made at the first call with this key and kept for the job."""
        with self._kept_lock:
            if key not in self._kept:
                self._kept[key] = make()
            return self._kept[key]

    def note(
        self, result: StepResult, *, items: int | None = None, unit: str = "clips", text: str = ""
    ) -> None:
        """Prints a finished step's line and keeps its time for the report."""
        timing = StageTiming(
            name=result.name, seconds=result.seconds, cached=result.cached, items=items, unit=unit
        )
        self.timings.append(timing)
        if result.cached and result.seconds:
            text = f"{text}  (took {result.seconds:.1f} s)".strip()
        self.console.finished(result.name, result.seconds, cached=result.cached, text=text)

    def board(self) -> Board:
        """The board that workers report to; the first call starts or joins Ray."""
        with self._ray_lock:
            if self._board is None:
                begun = time.monotonic()
                # Linux ends Ray's processes with the thread that started them, and this may be the
                # thread of one step, so a thread of its own outlives all steps.
                owner = self._stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="ray"))
                session = ray_session()
                owner.submit(session.__enter__).result()
                self._stack.push(session.__exit__)
                with RAY_IMPORTS:
                    from actors.pool.board import Board

                self._board = self._stack.enter_context(Board())
                self.console.say(f"  [dim]Ray is ready after {time.monotonic() - begun:.1f} s[/]")
            return self._board

    def fit_pool(self) -> FitPool | None:
        """Workers for fits, which the first call starts in the background; None where each fit has
        workers of its own (with GPUs or several) or none."""
        if self.settings.resources.fit_workers != 1:
            return None
        with self._ray_lock:
            self.board()
            import ray

            have = ray.cluster_resources()
            if self._fits is None and not (have.get("GPU") and self.settings.resources.fit_gpus):
                with RAY_IMPORTS:
                    from trainers.fit.pool import FitPool

                workers = min(max(len(self.settings.streams), 1), int(have.get("CPU", 1)))
                pool = FitPool(workers, self.files.path("ray"), preload=FITTING_MODULES)
                self._fits = self._stack.enter_context(pool)
            return self._fits

    def end_fits(self) -> None:
        """No fit follows soon: lets the workers go, without waiting for them."""
        with self._ray_lock:
            pool, self._fits = self._fits, None
        if pool is not None:
            pool.retire()

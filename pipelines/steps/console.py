"""The output of a job: one line per step, live on a terminal, a few lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LOG_EVERY_S = 10.0
NAME_WIDTH = 16
"""Columns for a stage's name; ``spatial.sequence`` has 16 letters."""


class StageProgress:
    """Progress of one stage; `update` may be called from any thread, at any rate."""

    def __init__(
        self, console: Console, name: str, total: int | None, unit: str, *, alike: bool = True
    ) -> None:
        self._console, self.name, self.unit, self._alike = console, name, unit, alike
        self.total, self.done, self.detail = total, 0, ""
        self.started = self._logged = time.monotonic()
        self._first_done: int | None = None
        self._first_at = self.started
        self.task: TaskID | None = None
        self.closed = False

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        """Sets the number of items done so far; rates count from the first update."""
        if self._first_done is None:
            self._first_done, self._first_at = done, time.monotonic()
        self.done, self.detail = done, detail or self.detail
        self.total = total if total is not None else self.total
        self._console.show(self)

    def describe(self) -> str:
        """For instance ``120/352 clips · 9.8 clips/s · 24 s left``."""
        seconds = max(time.monotonic() - self._first_at, 1e-6)
        rate = (self.done - (self._first_done or 0)) / seconds
        parts = [f"{self.done}/{self.total} {self.unit}" if self.total else f"{self.done}"]
        if rate > 0 and self._alike:
            parts.append(f"{rate:.1f} {self.unit}/s")
            if self.total and self.done < self.total:
                parts.append(f"{(self.total - self.done) / rate:.0f} s left")
        if self.detail:
            parts.append(self.detail)
        return " · ".join(parts)

    def due(self) -> bool:
        """Returns whether it is time for the next line in a log."""
        if time.monotonic() - self._logged < LOG_EVERY_S:
            return False
        self._logged = time.monotonic()
        return True


class Console:
    """Prints to stdout: progress bars on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        live = sys.stdout.isatty()
        self.rich = RichConsole(
            soft_wrap=not live, highlight=False, emoji=False, width=None if live else 120
        )
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._running = 0
        self._live = live

    def say(self, text: str, *, markup: bool = True) -> None:
        """Prints a line.

        Args:
            markup: whether ``[bold]`` and the like are styles. Texts that come from a user, such
                as paths, have none, or are escaped (`rich.markup.escape`).
        """
        self.rich.print(text, markup=markup)

    @contextmanager
    def stage(
        self, name: str, *, total: int | None = None, unit: str = "items", alike: bool = True
    ) -> Iterator[StageProgress]:
        """Shows the progress of a step, or of another stage of a job; several may run at once.

        Args:
            name: of the stage.
            total: number of items, if known.
            unit: name of the items, in the plural.
            alike: whether all items take about as long, so that a rate is shown.
        """
        progress = StageProgress(self, name, total, unit, alike=alike)
        self._open(progress)
        try:
            yield progress
        finally:
            self._close(progress)

    def show(self, stage: StageProgress) -> None:
        """Shows the progress of a stage, unless it has ended."""
        with self._lock:
            if stage.closed:
                return
            if self._progress is not None and stage.task is not None:
                self._progress.update(
                    stage.task, completed=stage.done, total=stage.total, text=stage.describe()
                )
            elif not self._live and stage.due():
                self.say(f"  {stage.name:<{NAME_WIDTH}} {stage.describe()}", markup=False)

    def finished(self, name: str, seconds: float, *, cached: bool, text: str = "") -> None:
        """Prints the line of a finished step."""
        when = "cached" if cached else f"{seconds:.1f} s"
        line = f"[green]✓[/] {escape(name.ljust(NAME_WIDTH))} [dim]{when:>8}[/]  {escape(text)}"
        self.say(line.rstrip())

    def _open(self, stage: StageProgress) -> None:
        if not self._live:
            return
        with self._lock:
            if self._progress is None:
                self._progress = Progress(
                    TextColumn(f"  {{task.description:<{NAME_WIDTH}}}", markup=False),
                    BarColumn(bar_width=28),
                    TextColumn("{task.fields[text]}", markup=False),
                    TimeElapsedColumn(),
                    console=self.rich,
                    transient=True,
                )
                self._progress.start()
            self._running += 1
            stage.task = self._progress.add_task(stage.name, total=stage.total, text="starting")

    def _close(self, stage: StageProgress) -> None:
        with self._lock:
            task, stage.task, stage.closed = stage.task, None, True
            if task is None or self._progress is None:
                return
            self._progress.remove_task(task)
            self._running -= 1
            if self._running == 0:
                self._progress.stop()
                self._progress = None

"""What a person sees while a job runs: one line per stage, live on a terminal, sparse in a log."""

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


class StageProgress:
    """Progress of one stage: `update` may be called from any thread, as often as one likes."""

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
        """Whether a log that is no terminal is owed another line."""
        if time.monotonic() - self._logged < LOG_EVERY_S:
            return False
        self._logged = time.monotonic()
        return True


class Console:
    """Prints to stderr-free stdout; live bars only where somebody watches a terminal."""

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
        """Shows a stage from its start to its end; several may run side by side.

        Args:
            name: of the stage.
            total: how many items there are, if known.
            unit: what they are, in the plural.
            alike: whether one takes as long as another, so that a rate tells something.
        """
        progress = StageProgress(self, name, total, unit, alike=alike)
        self._open(progress)
        try:
            yield progress
        finally:
            self._close(progress)

    def show(self, stage: StageProgress) -> None:
        """Shows where a stage is; one that has ended shows nothing more."""
        with self._lock:
            if stage.closed:
                return
            if self._progress is not None and stage.task is not None:
                self._progress.update(
                    stage.task, completed=stage.done, total=stage.total, text=stage.describe()
                )
            elif not self._live and stage.due():
                self.say(f"  {stage.name:<14} {stage.describe()}", markup=False)

    def finished(self, name: str, seconds: float, *, cached: bool, text: str = "") -> None:
        """The one line that stays of a stage."""
        when = "cached" if cached else f"{seconds:.1f} s"
        self.say(f"[green]✓[/] {escape(f'{name:<14}')} [dim]{when:>8}[/]  {escape(text)}")

    def _open(self, stage: StageProgress) -> None:
        if not self._live:
            return
        with self._lock:
            if self._progress is None:
                self._progress = Progress(
                    TextColumn("  {task.description:<14}", markup=False),
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

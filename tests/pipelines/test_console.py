"""The console and the board: late messages, brackets in paths, lines in a log."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console as RichConsole

from actors.pool import board as board_module
from actors.pool.board import Board
from pipelines.steps import console as module
from pipelines.steps.console import Console, StageProgress


@pytest.fixture
def log(monkeypatch):
    """A console that is no terminal, and owes a line for every update."""
    monkeypatch.setattr(module.sys.stdout, "isatty", lambda: False, raising=False)
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    return with_file(Console(), terminal=False)


def with_file(console, *, terminal):
    console._live = terminal
    console.rich = RichConsole(
        file=io.StringIO(), force_terminal=terminal, width=120, highlight=False, emoji=False
    )
    return console


def printed(console):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.rich.file.getvalue())


def test_a_log_gets_lines(log):
    with log.stage("extract", total=10, unit="clips") as progress:
        progress.update(4, detail="of [bold]/a[/bold]/[x]")
        progress.update(5)
    lines = printed(log).splitlines()
    assert lines[0] == "  extract          4/10 clips · of [bold]/a[/bold]/[x]"
    assert lines[1].startswith("  extract          5/10 clips · ")


def test_a_log_gets_few_lines(log, monkeypatch):
    monkeypatch.setattr(module, "LOG_EVERY_S", 60.0)
    with log.stage("extract", total=10) as progress:
        for done in range(10):
            progress.update(done)
    assert printed(log) == ""


def test_rates_count_from_the_first_update(log, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = StageProgress(log, "fit", 100, "steps")
    now[0] = 150.0
    progress.update(40)
    assert progress.describe() == "40/100 steps"
    now[0] = 160.0
    progress.update(60)
    assert progress.describe() == "60/100 steps · 2.0 steps/s · 20 s left"
    unlike = StageProgress(log, "fit", 100, "fits", alike=False)
    unlike.update(40)
    now[0] = 170.0
    unlike.update(60)
    assert unlike.describe() == "60/100 fits"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_said_after_the_end_is_not_shown(log, terminal):
    console = with_file(log, terminal=terminal)
    with (
        console.stage("other", total=3) as other,
        console.stage("fit [a]", total=10, unit="steps") as progress,
    ):
        progress.update(1, detail="[/]")
        other.update(1)
        console._close(progress)
        before = printed(console)
        progress.update(9)
        assert (progress.task, "9/10" in printed(console)) == (None, False)
        assert before in printed(console)
    progress.update(10)
    assert "10/10" not in printed(console)
    assert console._progress is None
    assert console._running == 0


def test_brackets_of_users_are_kept_and_ours_are_styles(log):
    log.finished("demo [1]", 1.25, cached=False, text="/data/[/]/[red]/:car:")
    log.finished("fit", 1.25, cached=True)
    log.say("[bold]ours[/]")
    log.say("[bold]/path[/]", markup=False)
    assert printed(log).splitlines() == [
        "✓ demo [1]            1.2 s  /data/[/]/[red]/:car:",
        "✓ fit                cached",
        "ours",
        "[bold]/path[/]",
    ]


@pytest.fixture
def board(monkeypatch):
    """A board without Ray: its actor lives here."""

    class Remote:
        """An actor whose answers are there at once."""

        def __init__(self, target):
            for name in ("put", "drain"):
                method = getattr(target, name)
                setattr(self, name, type("Method", (), {"remote": staticmethod(method)}))

    class Made:
        def __init__(self, cls):
            self._cls = cls

        def remote(self):
            return Remote(self._cls())

    monkeypatch.setattr(board_module.ray, "remote", lambda **options: Made)
    monkeypatch.setattr(board_module.ray, "get", lambda value: value)
    monkeypatch.setattr(board_module.ray, "kill", lambda actor: None)
    monkeypatch.setattr(board_module, "READ_EVERY_S", 0.01)
    return Board()


def test_a_listener_that_fails_is_logged_once_and_the_rest_go_on(board, caplog):
    heard = []

    def fails(done, total, metrics):
        raise KeyError("no such task")

    with board:
        bad = board.reporter("bad", fails)
        good = board.reporter("good", lambda *said: heard.append(said))
        for step in range(3):
            bad(step, 3, {"loss": 1.0})
            good(step, 3, {"loss": float(step)})
            time.sleep(0.03)
        assert board._thread.is_alive()
    assert heard == [(step, 3, {"loss": float(step)}) for step in range(3)]
    assert [record.getMessage() for record in caplog.records] == [
        "the progress of bad can't be shown"
    ]
    assert "no such task" in caplog.text


def test_forgotten_and_unknown_topics_go_unheard(board):
    heard = []
    with board:
        first = board.reporter("first", lambda *said: heard.append(("first", *said)))
        second = board.reporter("second", lambda *said: heard.append(("second", *said)))
        board.forget("first")
        board.forget("never there")
        first(1, 2, {"a": 1.0})
        second(1, 2, {"a": 1.0})
    assert heard == [("second", 1, 2, {"a": 1.0})]

"""Progress of workers on the cluster, collected for the driver."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import ray
from ray.actor import ActorHandle

REPORT_EVERY_S = 0.5
"""Shortest time between two reports of progress without metrics."""
READ_EVERY_S = 0.5
"""Time between two reads of the driver."""

log = logging.getLogger(__name__)

Listener = Callable[[int, int, dict[str, float]], None]


class _Board:
    """Actor that keeps reports until the driver fetches them."""

    def __init__(self) -> None:
        self._reports: list[tuple[str, int, int, dict[str, float]]] = []

    def put(self, topic: str, done: int, total: int, metrics: dict[str, float]) -> None:
        self._reports.append((topic, done, total, metrics))

    def drain(self) -> list[tuple[str, int, int, dict[str, float]]]:
        reports, self._reports = self._reports, []
        return reports


class Reporter:
    """A worker's end: sends its progress at most twice per second, and all metrics."""

    def __init__(self, board: ActorHandle, topic: str) -> None:
        self._board, self._topic, self._last = board, topic, 0.0

    def __call__(self, done: int, total: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        if not metrics and done < total and now - self._last < REPORT_EVERY_S:
            return
        self._last = now
        self._board.put.remote(self._topic, done, total, metrics)


class Board:
    """The driver's end: a thread that passes reports to the listeners of their topics."""

    def __init__(self) -> None:
        made: Any = ray.remote(num_cpus=0)(_Board)
        self._actor: ActorHandle = made.remote()
        self._listeners: dict[str, Listener] = {}
        self._failed: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="board", daemon=True)

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self.flush()
        if kind is None or issubclass(kind, Exception):  # otherwise Ray ends with this process
            ray.kill(self._actor)

    def reporter(self, topic: str, listener: Listener) -> Reporter:
        """Returns a reporter for a worker; `listener` is called on the driver with its reports."""
        self._listeners[topic] = listener
        return Reporter(self._actor, topic)

    def forget(self, topic: str) -> None:
        """Ends a topic; its later reports are dropped."""
        self._listeners.pop(topic, None)
        self._failed.discard(topic)

    def flush(self) -> None:
        """Passes all reports so far to their listeners."""
        reports: list[tuple[str, int, int, dict[str, float]]] = ray.get(self._actor.drain.remote())
        for topic, done, total, metrics in reports:
            listener = self._listeners.get(topic)
            if listener is not None:
                self._notify(listener, topic, done, total, metrics)

    def _notify(
        self, listener: Listener, topic: str, done: int, total: int, metrics: dict[str, float]
    ) -> None:
        """Calls a listener; its errors end neither the thread nor the work that reports."""
        try:
            listener(done, total, metrics)
        except Exception as error:
            if topic not in self._failed:
                self._failed.add(topic)
                log.error("the progress of %s can't be shown", topic, exc_info=error)

    def _read(self) -> None:
        while not self._stop.wait(READ_EVERY_S):
            self.flush()


def no_report(done: int, total: int, metrics: dict[str, Any]) -> None:
    """A reporter that drops all reports."""

"""Where workers anywhere on the cluster say how far they are, and the driver reads it. Moves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import ray
from ray.actor import ActorHandle

SAY_EVERY_S = 0.5
READ_EVERY_S = 0.5

log = logging.getLogger(__name__)

Listener = Callable[[int, int, dict[str, float]], None]


class _Board:
    """Keeps what was said until the driver fetches it."""

    def __init__(self) -> None:
        self._said: list[tuple[str, int, int, dict[str, float]]] = []

    def put(self, topic: str, done: int, total: int, metrics: dict[str, float]) -> None:
        self._said.append((topic, done, total, metrics))

    def drain(self) -> list[tuple[str, int, int, dict[str, float]]]:
        said, self._said = self._said, []
        return said


class Reporter:
    """A worker's end: says at most twice a second where it is, and every measured metric."""

    def __init__(self, board: ActorHandle, topic: str) -> None:
        self._board, self._topic, self._said = board, topic, 0.0

    def __call__(self, done: int, total: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        if not metrics and done < total and now - self._said < SAY_EVERY_S:
            return
        self._said = now
        self._board.put.remote(self._topic, done, total, metrics)


class Board:
    """The driver's end: a thread that hands what is said to whoever listens to that topic."""

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
        if kind is None or issubclass(kind, Exception):  # else Ray ends with this process
            ray.kill(self._actor)

    def reporter(self, topic: str, listener: Listener) -> Reporter:
        """What to hand to a worker; `listener` is called on the driver with what it says."""
        self._listeners[topic] = listener
        return Reporter(self._actor, topic)

    def forget(self, topic: str) -> None:
        """Ends a topic: what is still said there goes unheard."""
        self._listeners.pop(topic, None)
        self._failed.discard(topic)

    def flush(self) -> None:
        """Hands on everything that has been said so far."""
        said: list[tuple[str, int, int, dict[str, float]]] = ray.get(self._actor.drain.remote())
        for topic, done, total, metrics in said:
            listener = self._listeners.get(topic)
            if listener is not None:
                self._tell(listener, topic, done, total, metrics)

    def _tell(
        self, listener: Listener, topic: str, done: int, total: int, metrics: dict[str, float]
    ) -> None:
        """One listener's mistake must neither end the thread nor fail the work it watches."""
        try:
            listener(done, total, metrics)
        except Exception as error:
            if topic not in self._failed:
                self._failed.add(topic)
                log.error("progress of %s can't be shown", topic, exc_info=error)

    def _read(self) -> None:
        while not self._stop.wait(READ_EVERY_S):
            self.flush()


def no_report(done: int, total: int, metrics: dict[str, Any]) -> None:
    """For work whose progress nobody watches."""

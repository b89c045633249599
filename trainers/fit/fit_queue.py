"""The queue from which kept workers take fits, and which repeats fits that were lost. Computes."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Failure = bytes
"""A pickled exception: the queue does not import the modules that its class comes from."""


@dataclass(frozen=True)
class Outcome:
    """How a fit ended.

    Attributes:
        key: of the fit.
        failure: None if it finished.
        lost: number of workers that died during the fit if it was given up for that reason; else 0.
    """

    key: str
    failure: Failure | None = None
    lost: int = 0


class FitQueue:
    """Hands out fits in the order in which they were added.

    All methods are coroutines of one event loop. A worker is known by its rank and runs one fit at
    a time. A worker that starts calls `register`: the fit that its predecessor of the same rank
    was running is lost, returns to the front of the queue, and is started again from its last
    checkpoint.

    Args:
        restarts: number of times that a fit may be lost or fail before it counts as failed.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self._queue: deque[str] = deque()
        self._fits: dict[str, Any] = {}
        self._running: dict[int, str] = {}
        self._failures: Counter[str] = Counter()
        self._ended: list[Outcome] = []
        self._closed = False
        self._change = asyncio.Condition()

    async def put(self, key: str, fit: Any) -> None:
        """Adds a fit."""
        self._fits[key] = fit
        self._queue.append(key)
        await self._notify()

    async def register(self, worker: int) -> None:
        """Registers a worker, the first one of its rank or its successor."""
        key = self._running.pop(worker, None)
        if key in self._fits:
            self._repeat(key, Outcome(key, lost=self._failures[key] + 1))
            await self._notify()

    async def take(self, worker: int, wait_s: float) -> tuple[str, Any] | None:
        """Returns the next fit and its key; None if there is none within `wait_s` seconds."""
        await self._wait(lambda: bool(self._queue), wait_s)
        if self._closed or not self._queue:
            return None
        key = self._running[worker] = self._queue.popleft()
        return key, self._fits[key]

    async def finish(self, worker: int, key: str, failure: Failure | None, final: bool) -> None:
        """Records that a worker has ended a fit.

        Args:
            failure: the exception that ended it; None if it finished.
            final: whether the fit is not to be repeated.
        """
        if self._running.get(worker) == key:
            del self._running[worker]
        if key in self._fits:
            if failure is None or final:
                self._settle(Outcome(key, failure))
            else:
                self._repeat(key, Outcome(key, failure))
            await self._notify()

    async def outcomes(self, wait_s: float) -> list[Outcome]:
        """Returns the fits that have ended since the last call; waits `wait_s` seconds at most."""
        await self._wait(lambda: bool(self._ended), wait_s)
        ended, self._ended = self._ended, []
        return ended

    async def close(self) -> None:
        """Ends the handing out of fits."""
        self._closed = True
        await self._notify()

    async def wait_closed(self) -> bool:
        """Returns when the queue is closed."""
        await self._wait(lambda: False, None)
        return True

    def _repeat(self, key: str, outcome: Outcome) -> None:
        self._failures[key] += 1
        if self._failures[key] > self._restarts:
            self._settle(outcome)
        elif key not in self._queue:
            self._queue.appendleft(key)

    def _settle(self, outcome: Outcome) -> None:
        del self._fits[outcome.key]
        if outcome.key in self._queue:  # a worker that was taken for dead has finished it
            self._queue.remove(outcome.key)
        self._ended.append(outcome)

    async def _wait(self, ready: Callable[[], bool], wait_s: float | None) -> None:
        async def changed() -> None:
            async with self._change:
                await self._change.wait_for(lambda: self._closed or ready())

        try:
            await asyncio.wait_for(changed(), wait_s)
        except TimeoutError:
            return

    async def _notify(self) -> None:
        async with self._change:
            self._change.notify_all()

"""Where workers that are kept take their work from: who has which, and what was lost. Computes."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Failure = bytes
"""A pickled exception: the desk has no need of the modules that it comes from."""


@dataclass(frozen=True)
class End:
    """How a piece of work ended.

    Attributes:
        key: of the work.
        failure: None where it was done.
        lost: how often its worker died, where that is why it was given up; else 0.
    """

    key: str
    failure: Failure | None = None
    lost: int = 0


class Desk:
    """Hands out pieces of work in the order in which they come.

    All methods are coroutines of one event loop. A worker is known by its number, and a number has
    one piece of work in hand at a time. A worker that starts says so with `begin`: what its
    predecessor of the same number had in hand is lost, goes back to the front, and is done again.
    So each piece must be one that may be started again.

    Args:
        restarts: how often a piece may be lost, or fail, before it counts as failed.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self._queue: deque[str] = deque()
        self._work: dict[str, Any] = {}
        self._in_hand: dict[int, str] = {}
        self._mishaps: Counter[str] = Counter()
        self._ends: list[End] = []
        self._closed = False
        self._change = asyncio.Condition()

    async def put(self, key: str, work: Any) -> None:
        """Adds a piece of work."""
        self._work[key] = work
        self._queue.append(key)
        await self._tell()

    async def begin(self, worker: int) -> None:
        """A worker starts, the first one of its number or the next."""
        key = self._in_hand.pop(worker, None)
        if key in self._work:
            self._again(key, End(key, lost=self._mishaps[key] + 1))
            await self._tell()

    async def take(self, worker: int, wait_s: float) -> tuple[str, Any] | None:
        """The next piece of work and its key; None: there is none after `wait_s` seconds."""
        await self._wait(lambda: bool(self._queue), wait_s)
        if self._closed or not self._queue:
            return None
        key = self._in_hand[worker] = self._queue.popleft()
        return key, self._work[key]

    async def end(self, worker: int, key: str, failure: Failure | None, final: bool) -> None:
        """A worker is done with a piece of work.

        Args:
            failure: what went wrong, if anything did.
            final: whether to try again would be of no use.
        """
        if self._in_hand.get(worker) == key:
            del self._in_hand[worker]
        if key in self._work:
            if failure is None or final:
                self._settle(End(key, failure))
            else:
                self._again(key, End(key, failure))
            await self._tell()

    async def news(self, wait_s: float) -> list[End]:
        """What has ended since the last call; waits for the first of them at most `wait_s`."""
        await self._wait(lambda: bool(self._ends), wait_s)
        ends, self._ends = self._ends, []
        return ends

    async def close(self) -> None:
        """Nothing is handed out any more."""
        self._closed = True
        await self._tell()

    async def closed(self) -> bool:
        """Returns when the desk is closed."""
        await self._wait(lambda: False, None)
        return True

    def _again(self, key: str, end: End) -> None:
        self._mishaps[key] += 1
        if self._mishaps[key] > self._restarts:
            self._settle(end)
        elif key not in self._queue:
            self._queue.appendleft(key)

    def _settle(self, end: End) -> None:
        del self._work[end.key]
        if end.key in self._queue:  # a worker thought dead has done it after all
            self._queue.remove(end.key)
        self._ends.append(end)

    async def _wait(self, ready: Callable[[], bool], wait_s: float | None) -> None:
        async def changed() -> None:
            async with self._change:
                await self._change.wait_for(lambda: self._closed or ready())

        try:
            await asyncio.wait_for(changed(), wait_s)
        except TimeoutError:
            return

    async def _tell(self) -> None:
        async with self._change:
            self._change.notify_all()

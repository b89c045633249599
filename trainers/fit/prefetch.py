"""Work done ahead of its use by background threads, in order, a bounded number of items ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Yields ``work(item)`` for each item, in order, while threads work on the next ones.

    No thread is left once the iterator is closed or exhausted. An exception in `work` is raised
    where its item is due.

    Args:
        work: must be safe to call from several threads.
        items: taken one by one as there is room, so it may be endless.
        threads: how many work at a time.
        ahead: most results that are ready or in progress at a time.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    pending: deque[Future[Result]] = deque()
    remaining = iter(items)
    try:
        for item in remaining:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

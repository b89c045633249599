"""The queue of fits: who runs which, and what becomes of those that are lost."""

from __future__ import annotations

import asyncio
import time

from trainers.fit.fit_queue import FitQueue, Outcome

SOON = 0.01


def run(scenario):
    return asyncio.run(scenario(FitQueue(restarts=2)))


def test_work_is_handed_out_in_order_and_ends_once():
    async def scenario(queue):
        await queue.put("a", 1)
        await queue.put("b", 2)
        assert await queue.take(0, SOON) == ("a", 1)
        assert await queue.take(1, SOON) == ("b", 2)
        assert await queue.take(2, SOON) is None
        await queue.finish(1, "b", None, True)
        await queue.finish(1, "b", None, True)
        return await queue.outcomes(SOON), await queue.outcomes(SOON)

    assert run(scenario) == ([Outcome("b")], [])


def test_a_worker_waits_for_work_and_the_driver_for_news():
    async def scenario(queue):
        taken, news = (
            asyncio.create_task(queue.take(0, 60)),
            asyncio.create_task(queue.outcomes(60)),
        )
        await asyncio.sleep(SOON)
        await queue.put("a", 1)
        assert await taken == ("a", 1)
        await queue.finish(0, "a", None, True)
        return await news

    begun = time.monotonic()
    assert run(scenario) == [Outcome("a")]
    assert time.monotonic() - begun < 30


def test_what_a_dead_worker_had_goes_first_to_the_next():
    async def scenario(queue):
        for key in "abc":
            await queue.put(key, key)
        for worker in (0, 1):
            await queue.register(worker)
            await queue.take(worker, SOON)
        for worker in (1, 0):
            await queue.register(worker)
        return [(await queue.take(worker, SOON))[0] for worker in (0, 1, 2)]

    assert run(scenario) == ["a", "b", "c"]


def test_what_is_lost_too_often_fails():
    async def scenario(queue):
        await queue.put("a", 1)
        for _ in range(2):
            await queue.take(0, SOON)
            await queue.register(0)
            assert await queue.outcomes(SOON) == []
        await queue.take(0, SOON)
        await queue.register(0)
        assert await queue.take(0, SOON) is None
        return await queue.outcomes(SOON)

    assert run(scenario) == [Outcome("a", lost=3)]


def test_what_fails_is_tried_again_unless_that_is_of_no_use():
    async def scenario(queue):
        await queue.put("a", 1)
        await queue.put("b", 2)
        for worker in range(3):
            key, _ = await queue.take(worker, SOON)
            assert key == "a"
            await queue.finish(worker, "a", b"bad", False)
        await queue.take(0, SOON)
        await queue.finish(0, "b", b"worse", True)
        return await queue.outcomes(SOON)

    assert run(scenario) == [Outcome("a", b"bad"), Outcome("b", b"worse")]


def test_work_done_by_a_worker_thought_dead_is_done():
    async def scenario(queue):
        await queue.put("a", 1)
        await queue.take(0, SOON)
        await queue.register(0)  # its successor starts; what it had is back in the queue
        await queue.finish(0, "a", None, True)  # its last word arrives late
        assert await queue.take(1, SOON) is None
        return await queue.outcomes(SOON)

    assert run(scenario) == [Outcome("a")]


def test_closing_lets_all_who_wait_go_and_hands_out_nothing():
    async def scenario(queue):
        closed, taken = (
            asyncio.create_task(queue.wait_closed()),
            asyncio.create_task(queue.take(0, 60)),
        )
        await asyncio.sleep(SOON)
        assert not closed.done()
        await queue.close()
        await queue.put("a", 1)
        return await closed, await taken, await queue.take(0, 60)

    assert run(scenario) == (True, None, None)

"""The desk: who has which piece of work, and what becomes of those that are lost."""

from __future__ import annotations

import asyncio
import time

from trainers.fit.desk import Desk, End

SOON = 0.01


def run(scenario):
    return asyncio.run(scenario(Desk(restarts=2)))


def test_work_is_handed_out_in_order_and_ends_once():
    async def scenario(desk):
        await desk.put("a", 1)
        await desk.put("b", 2)
        assert await desk.take(0, SOON) == ("a", 1)
        assert await desk.take(1, SOON) == ("b", 2)
        assert await desk.take(2, SOON) is None
        await desk.end(1, "b", None, True)
        await desk.end(1, "b", None, True)
        return await desk.news(SOON), await desk.news(SOON)

    assert run(scenario) == ([End("b")], [])


def test_a_worker_waits_for_work_and_the_driver_for_news():
    async def scenario(desk):
        taken, news = asyncio.create_task(desk.take(0, 60)), asyncio.create_task(desk.news(60))
        await asyncio.sleep(SOON)
        await desk.put("a", 1)
        assert await taken == ("a", 1)
        await desk.end(0, "a", None, True)
        return await news

    begun = time.monotonic()
    assert run(scenario) == [End("a")]
    assert time.monotonic() - begun < 30


def test_what_a_dead_worker_had_goes_first_to_the_next():
    async def scenario(desk):
        for key in "abc":
            await desk.put(key, key)
        for worker in (0, 1):
            await desk.begin(worker)
            await desk.take(worker, SOON)
        for worker in (1, 0):
            await desk.begin(worker)
        return [(await desk.take(worker, SOON))[0] for worker in (0, 1, 2)]

    assert run(scenario) == ["a", "b", "c"]


def test_what_is_lost_too_often_fails():
    async def scenario(desk):
        await desk.put("a", 1)
        for _ in range(2):
            await desk.take(0, SOON)
            await desk.begin(0)
            assert await desk.news(SOON) == []
        await desk.take(0, SOON)
        await desk.begin(0)
        assert await desk.take(0, SOON) is None
        return await desk.news(SOON)

    assert run(scenario) == [End("a", lost=3)]


def test_what_fails_is_tried_again_unless_that_is_of_no_use():
    async def scenario(desk):
        await desk.put("a", 1)
        await desk.put("b", 2)
        for worker in range(3):
            key, _ = await desk.take(worker, SOON)
            assert key == "a"
            await desk.end(worker, "a", b"bad", False)
        await desk.take(0, SOON)
        await desk.end(0, "b", b"worse", True)
        return await desk.news(SOON)

    assert run(scenario) == [End("a", b"bad"), End("b", b"worse")]


def test_work_done_by_a_worker_thought_dead_is_done():
    async def scenario(desk):
        await desk.put("a", 1)
        await desk.take(0, SOON)
        await desk.begin(0)  # its successor starts; what it had is back in the queue
        await desk.end(0, "a", None, True)  # its last word arrives late
        assert await desk.take(1, SOON) is None
        return await desk.news(SOON)

    assert run(scenario) == [End("a")]


def test_closing_lets_all_who_wait_go_and_hands_out_nothing():
    async def scenario(desk):
        closed, taken = asyncio.create_task(desk.closed()), asyncio.create_task(desk.take(0, 60))
        await asyncio.sleep(SOON)
        assert not closed.done()
        await desk.close()
        await desk.put("a", 1)
        return await closed, await taken, await desk.take(0, 60)

    assert run(scenario) == (True, None, None)

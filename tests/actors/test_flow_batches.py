"""Batches of a GPU's flow under way at once, on streams that put off whatever may be put off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.flow.cuda.batches import NoStreams, Slot, solve_batches

CPU = torch.device("cpu")


class Lazy:
    """Streams in which nothing is done until somebody waits for it."""

    def __init__(self):
        self.last = {}
        self.done = []

    def run(self, stream, work, *after):
        event = LazyEvent(self, stream, work, [self.last.get(stream), *after])
        self.last[stream] = event
        return event


class LazyEvent:
    def __init__(self, queues, stream, work, before):
        self.queues, self.stream, self.work, self.before = queues, stream, work, before

    def synchronize(self):
        if self.work is None:
            return
        for event in self.before:
            if event is not None:
                event.synchronize()
        self.work()
        self.work = None
        self.queues.done.append(self.stream)


def solve(queues, slots, count=7, size=3):
    """Fields that are their pair's frames, a batch of three at a time."""
    frames = np.arange(count + 1, dtype=np.uint8)[:, None, None] * np.ones((4, 5), np.uint8)
    target = torch.zeros((count, 2, 4, 5))
    memory = [Slot((size + 1, 4, 5), (size, 2, 4, 5), torch.float32, CPU) for _ in range(slots)]
    batches = (
        (frames[i : min(i + size, count) + 1], target[i : i + size]) for i in range(0, count, size)
    )
    solve_batches(batches, memory, lambda f: torch.stack([f[:-1], f[1:]], 1).float(), queues)
    return target[:, :, 0, 0].tolist()


@pytest.mark.parametrize("slots", [1, 2])
def test_batches_do_not_write_over_each_other(slots):
    queues, expected = Lazy(), [[i, i + 1] for i in range(7)]
    assert solve(queues, slots) == expected
    assert queues.done == ["up", "solve", "down"] * 3
    assert solve(NoStreams(), slots) == expected


def test_what_is_under_way_is_over_when_an_error_comes_out():
    queues, target = Lazy(), torch.zeros((1, 2, 4, 5))

    def batches():
        yield np.ones((2, 4, 5), np.uint8), target
        raise RuntimeError("the second batch")

    slots = [Slot((2, 4, 5), (1, 2, 4, 5), torch.float32, CPU) for _ in range(2)]
    with pytest.raises(RuntimeError, match="the second batch"):
        solve_batches(batches(), slots, lambda f: f[None].float(), queues)
    assert (target == 1).all()


def test_what_is_under_way_is_over_when_a_batch_cannot_be_solved():
    class Full(Lazy):
        def run(self, stream, work, *after):
            if stream == "solve" and "down" in self.last:
                raise RuntimeError("no memory for the second batch")
            return super().run(stream, work, *after)

    queues = Full()
    with pytest.raises(RuntimeError, match="no memory"):
        solve(queues, 2)
    assert sorted(queues.done) == ["down", "solve", "up", "up"]

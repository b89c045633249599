"""Batches of frames on their way to a GPU, and of flow fields on their way back.

Two batches are under way at once: while the GPU works on one, the next goes up and the one before
comes down, each in a stream of its own. Frames go up from pinned memory, for from pageable memory
the driver would copy them while the host waits; two such buffers serve all batches of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Stream = Literal["up", "solve", "down"]
IN_FLIGHT = 2
"""Batches at once: one more would have nothing to overlap with."""


def ceiling(numerator: int, denominator: int) -> int:
    """The quotient, rounded up."""
    return -(-numerator // denominator)


class Event(Protocol):
    """A place in a stream's work."""

    def synchronize(self) -> None:
        """Waits until the work up to there is done."""
        ...


class Queues(Protocol):
    """Streams that take up work."""

    def run(self, stream: Stream, work: Callable[[], object], *after: Event) -> Event:
        """Queues work behind all else in that stream, and behind the events."""
        ...


class CUDAStreams:
    """Streams of the present GPU; "solve" is the current one."""

    def __init__(self) -> None:
        current = torch.cuda.current_stream()
        self._streams = {"up": torch.cuda.Stream(), "solve": current, "down": torch.cuda.Stream()}
        for name in ("up", "down"):
            # Memory that these streams are to write may still be read by what was queued before.
            self._streams[name].wait_stream(current)

    def run(self, stream: Stream, work: Callable[[], object], *after: Any) -> Event:
        """See `Queues`."""
        chosen = self._streams[stream]
        with torch.cuda.stream(chosen):
            for event in after:
                chosen.wait_event(event)
            work()
            return chosen.record_event()


class NoStreams:
    """Does work at once, on the CPU."""

    def run(self, stream: Stream, work: Callable[[], object], *after: Event) -> Event:
        """See `Queues`."""
        work()
        return self

    def synchronize(self) -> None:
        """Nothing is under way."""


class Slot:
    """Memory for what a batch brings up and down.

    Args:
        frames: shape of a batch's frames, uint8.
        fields: shape of its fields.
        dtype: of the fields.
        device: where they are found.
    """

    def __init__(
        self, frames: Sequence[int], fields: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._sent = torch.empty(frames, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._frames = torch.empty(frames, dtype=torch.uint8, device=device)
        self._fields = torch.empty(fields, dtype=dtype, device=device)
        self._end: Event | None = None

    def begin(
        self,
        frames: NDArray[np.uint8],
        target: torch.Tensor,
        solve: Callable[[torch.Tensor], torch.Tensor],
        queues: Queues,
    ) -> None:
        """Queues all that is to be done with a batch, once the slot's last one is over.

        Args:
            frames: as `frames` of the slot, or fewer.
            target: pinned, for the fields.
            solve: frames to fields, both on the device.
            queues: where to.
        """
        self.finish()
        np.copyto(self._sent[: len(frames)].numpy(), frames)
        # This batch's own: the work may be done after the next has begun.
        sent, given = self._sent[: len(frames)], self._frames[: len(frames)]
        found = self._fields[: len(target)]
        # Each step is what to wait for in case the next can't be queued.
        self._end = up = queues.run("up", lambda: given.copy_(sent, non_blocking=True))
        self._end = solved = queues.run("solve", lambda: found.copy_(solve(given)), up)
        self._end = queues.run("down", lambda: target.copy_(found, non_blocking=True), solved)

    def finish(self) -> None:
        """Waits until the slot's batch has come down."""
        if self._end is not None:
            self._end.synchronize()
            self._end = None


def solve_batches(
    batches: Iterable[tuple[NDArray[np.uint8], torch.Tensor]],
    slots: Sequence[Slot],
    solve: Callable[[torch.Tensor], torch.Tensor],
    queues: Queues,
) -> None:
    """Solves batch after batch, as many at a time as there are slots, and waits for the last.

    Args:
        batches: frames, and where their fields are to go.
        slots: for the batches in turn.
        solve: frames to fields, both on the device.
        queues: where the work goes.
    """
    try:
        for number, (frames, target) in enumerate(batches):
            slots[number % len(slots)].begin(frames, target, solve, queues)
    finally:
        # Whatever went wrong: no stream may be left with memory that is about to be given back.
        for slot in slots:
            slot.finish()

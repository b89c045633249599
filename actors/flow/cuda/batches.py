"""Transfers of frames to a GPU and of flow fields back, overlapped with the computation.

Two batches are in flight: while the GPU computes one, the next one is uploaded and the previous one
downloaded, each in a CUDA stream of its own. Frames are uploaded from pinned memory, because an
upload from pageable memory blocks the host. Two such buffers serve all batches of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Stream = Literal["up", "solve", "down"]
IN_FLIGHT = 2
"""Batches in flight; a third one would not overlap with anything."""


def ceiling(numerator: int, denominator: int) -> int:
    """Returns the quotient, rounded up."""
    return -(-numerator // denominator)


class Event(Protocol):
    """A point in a stream's work."""

    def synchronize(self) -> None:
        """Waits until the work up to this point is done."""
        ...


class Queues(Protocol):
    """Streams to which work is queued."""

    def run(self, stream: Stream, work: Callable[[], object], *after: Event) -> Event:
        """Queues work after the stream's previous work and after the events; returns its end."""
        ...


class CUDAStreams:
    """CUDA streams of the current GPU; "solve" is the current stream."""

    def __init__(self) -> None:
        current = torch.cuda.current_stream()
        self._streams = {"up": torch.cuda.Stream(), "solve": current, "down": torch.cuda.Stream()}
        for name in ("up", "down"):
            # Work queued before may still read the memory that these streams write.
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
    """Does all work at once, on the CPU."""

    def run(self, stream: Stream, work: Callable[[], object], *after: Event) -> Event:
        """See `Queues`."""
        work()
        return self

    def synchronize(self) -> None:
        """Returns at once: no work is queued."""


class Slot:
    """Buffers of one batch in flight.

    Args:
        frames: shape of the batch's frames, uint8.
        fields: shape of the batch's fields.
        dtype: dtype of the fields.
        device: device that computes the fields.
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
        """Waits for the slot's previous batch, then queues upload, computation and download.

        Args:
            frames: uint8 frames, at most as many as the slot has room for.
            target: pinned memory for the fields; written.
            solve: computes fields from frames, both on the device.
            queues: streams for the work.
        """
        self.finish()
        np.copyto(self._sent[: len(frames)].numpy(), frames)
        # Views of this batch: the work may run after the next batch begins.
        sent, given = self._sent[: len(frames)], self._frames[: len(frames)]
        found = self._fields[: len(target)]
        # After each step, the event to wait for if the next step can't be queued.
        self._end = up = queues.run("up", lambda: given.copy_(sent, non_blocking=True))
        self._end = solved = queues.run("solve", lambda: found.copy_(solve(given)), up)
        self._end = queues.run("down", lambda: target.copy_(found, non_blocking=True), solved)

    def finish(self) -> None:
        """Waits until the fields of the slot's batch are downloaded."""
        if self._end is not None:
            self._end.synchronize()
            self._end = None


def solve_batches(
    batches: Iterable[tuple[NDArray[np.uint8], torch.Tensor]],
    slots: Sequence[Slot],
    solve: Callable[[torch.Tensor], torch.Tensor],
    queues: Queues,
) -> None:
    """Computes the fields of all batches, with one batch per slot in flight.

    Args:
        batches: frames of each batch, and the memory for its fields.
        slots: buffers, used in turn.
        solve: computes fields from frames, both on the device.
        queues: streams for the work.
    """
    try:
        for number, (frames, target) in enumerate(batches):
            slots[number % len(slots)].begin(frames, target, solve, queues)
    finally:
        # Also after an error: no stream may use the buffers after they are freed.
        for slot in slots:
            slot.finish()

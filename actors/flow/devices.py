"""Checks of a GPU for the optical flow, and limits of its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from actors.errors import UserError

Result = TypeVar("Result")


class UnusableGPU(UserError):
    """The chosen device can't compute optical flow.

    Args:
        cause: description of the problem.
        remedy: what the user can do.
    """

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause, self.remedy = cause, remedy

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy}"


def check_present(device: torch.device) -> None:
    """Raises `UnusableGPU` for a CUDA device that PyTorch doesn't find."""
    if device.type != "cuda":
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= found:
        raise UnusableGPU(
            f"flow device is {str(device)!r}, but PyTorch finds {found or 'no'} GPU",
            "choose another device, or 'cpu'",
        )


def free_memory(device: torch.device, share: float = 1.0) -> int:
    """Returns the number of bytes that this process may use on a GPU.

    Memory that PyTorch caches for reuse counts as free, so repeated calls return the same number.

    Args:
        device: a CUDA device.
        share: largest share of the whole memory; other processes on the GPU may still allocate.
    """
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(free + own, int(share * total))


class PairSize(NamedTuple):
    """Size of a pair of frames in pixels, and an estimate of its memory in bytes."""

    height: int
    width: int
    bytes: int


class Fitting:
    """Adapts the number of pairs per batch to the memory, and remembers it per frame size.

    An estimate is not enough: other processes may allocate memory on the device at any moment.

    Args:
        device: device that computes the flow.
        share: largest share of its memory.
    """

    def __init__(self, device: torch.device, share: float) -> None:
        self._device, self._share = device, share
        self._most: dict[PairSize, int] = {}

    def run(self, size: PairSize, most: int, work: Callable[[int], Result]) -> Result:
        """Calls `work(most)`, and halves the number of pairs each time memory runs out.

        A number that failed is not tried again for pairs of that size: half of it is almost as
        fast, and a failure discards all fields computed so far.

        Args:
            size: size of the pairs.
            most: largest number of pairs per batch.
            work: computes all fields with at most the given number of pairs per batch.

        Returns:
            The result of `work`.

        Raises:
            UserError: the memory is too small for a single pair.
        """
        most = min(most, self._most.get(size, most))
        while True:
            try:
                return work(most)
            except torch.cuda.OutOfMemoryError:
                self._most[size] = max(most // 2, 1)
            # Outside of the handler, in which the exception keeps the attempt's memory alive.
            torch.cuda.empty_cache()
            if most == 1:
                raise UserError(self._refusal(size))
            most = self._most[size]

    def _refusal(self, size: PairSize) -> str:
        free = free_memory(self._device, self._share)
        return (
            f"device {str(self._device)!r} has not enough memory for the flow of one pair of "
            f"{size.width}x{size.height} pixels, which takes about {size.bytes / 2**20:,.0f} MiB; "
            f"{free / 2**20:,.0f} MiB are free. Use smaller frames, fewer processes per GPU, or "
            "device 'cpu'"
        )

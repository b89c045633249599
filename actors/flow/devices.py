"""Whether flow can be found on a GPU, and what an engine may take of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from actors.errors import UserError

Result = TypeVar("Result")


class UnusableGPU(UserError):
    """Flow can't be found on the device asked for.

    Args:
        cause: what is wrong.
        remedy: what to do.
    """

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause, self.remedy = cause, remedy

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy}"


def check_present(device: torch.device) -> None:
    """Raises UnusableGPU for a CUDA device that PyTorch doesn't find."""
    if device.type != "cuda":
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= found:
        raise UnusableGPU(
            f"flow device is {str(device)!r}, but PyTorch finds {found or 'no'} GPU",
            "choose another, or 'cpu'",
        )


def free_memory(device: torch.device, share: float = 1.0) -> int:
    """Bytes that this process may use on a GPU.

    What PyTorch keeps for reuse counts as free, so that every call finds the same.

    Args:
        device: a CUDA device.
        share: of the whole memory, at most: others that share the GPU may not have taken theirs.
    """
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(free + own, int(share * total))


class PairSize(NamedTuple):
    """A pair of frames, and about how much memory it takes."""

    height: int
    width: int
    bytes: int


class Fitting:
    """Finds out how many pairs at once there is memory for, and remembers it by their size.

    An estimate can't be sure: others may take their part of the device at any moment.

    Args:
        device: where flow is found.
        share: of its memory, at most.
    """

    def __init__(self, device: torch.device, share: float) -> None:
        self._device, self._share = device, share
        self._most: dict[PairSize, int] = {}

    def run(self, size: PairSize, most: int, work: Callable[[int], Result]) -> Result:
        """`work` with `most` pairs at once, or half as many as often as memory runs out.

        What was too many is not tried again for pairs of that size: one that fits is next to as
        fast, and each failure costs all that was done.

        Args:
            size: of the pairs.
            most: pairs at once at most.
            work: finds all fields anew, so many pairs at once as it is told at most.

        Raises:
            UserError: there isn't enough memory for a single pair.
        """
        most = min(most, self._most.get(size, most))
        while True:
            try:
                return work(most)
            except torch.cuda.OutOfMemoryError:
                self._most[size] = max(most // 2, 1)
            # Only now has the exception let go of what that attempt held.
            torch.cuda.empty_cache()
            if most == 1:
                raise UserError(self._refusal(size))
            most = self._most[size]

    def _refusal(self, size: PairSize) -> str:
        free = free_memory(self._device, self._share)
        return (
            f"{str(self._device)!r} has not enough memory for the flow of one pair of "
            f"{size.width}x{size.height} pixels: it takes about {size.bytes / 2**20:,.0f} MiB, "
            f"and {free / 2**20:,.0f} MiB are free: make the frames smaller, give the GPU to fewer "
            "processes, or choose device 'cpu'"
        )

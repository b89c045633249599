"""Whether flow can be found on a GPU, and what an engine may take of it."""

from __future__ import annotations

import torch

from actors.errors import UserError


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

"""What a flow engine may take of a GPU."""

from __future__ import annotations

import torch


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

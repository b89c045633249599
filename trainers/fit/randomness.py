"""torch's global random numbers, for fits that share a process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import torch

_TURN = threading.RLock()
"""One lock per process, because it guards state of the whole process."""


@contextlib.contextmanager
def seeded(seed: int, devices: Sequence[int] = ()) -> Iterator[None]:
    """torch's global random numbers start from a seed inside the block, and are restored after it.

    Threads take turns, so that what one draws does not depend on the others: dropout and
    initialization only use the global generator. Forward passes of training therefore run one after
    another in a process; fits that are to run in parallel need processes of their own.

    Args:
        seed: below 2^64.
        devices: indices of the CUDA devices whose random numbers are restored, besides the CPU's.
    """
    with _TURN, torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield

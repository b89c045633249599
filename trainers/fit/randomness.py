"""torch's random numbers, which a process has one source of, for fits that share a process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import torch

_TURN = threading.RLock()
"""The state of a whole process, as what it guards is one."""


@contextlib.contextmanager
def seeded(seed: int, devices: Sequence[int] = ()) -> Iterator[None]:
    """torch's global random numbers start from a seed within, and are put back afterwards.

    Threads take turns, so that what one draws does not depend on what others do: dropout and
    initialization know no generator but the global one. So forward passes of training follow one
    another in such a process; fits that are to run side by side have processes of their own.

    Args:
        seed: below 2^64.
        devices: indices of the CUDA devices whose random numbers are put back, besides the CPU's.
    """
    with _TURN, torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield

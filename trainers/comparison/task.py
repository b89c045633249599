"""One row of the comparison as a task of its own: little to import where it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.comparison.rows import RowInputs, rows


def compute_row(
    name: str, streams: Sequence[str], lstms: Sequence[str], inputs: RowInputs
) -> tuple[NDArray[np.float64], dict[str, Any], float]:
    """One row, on one thread: scores of the test clips, what it chose, seconds."""
    import torch

    torch.set_num_threads(1)
    known = rows(streams, lstms)
    row = next(row for row in known if row.name == name)
    begun = time.monotonic()
    outcome = row.compute(inputs)
    chosen = {key: _plain(value) for key, value in outcome.chosen.items()}
    return outcome.scores, chosen, time.monotonic() - begun


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value

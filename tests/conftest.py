"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli.environment import use_mlflow_quietly, use_ray_quietly

use_ray_quietly()  # before any test imports Ray or MLflow
use_mlflow_quietly()

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real clips and reference answers, kept beside the checkout and never committed."""
    place = Path(os.environ.get("MULTICLUE_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip(f"real clips are not there ({place}); set MULTICLUE_REAL_DATA to their folder")
    return place


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products are slower on many threads, above all beside other work."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)

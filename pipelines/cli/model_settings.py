"""Settings of what keeps models and works with them: MLflow, promotion, prediction.

Light: reading a command line imports it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from actors.errors import UserError
from actors.neutral import neutral
from pipelines.cli.launch import ROOT

CHALLENGER, CHAMPION = "challenger", "champion"


def default_storage() -> str:
    """`storage` in the checkout; in the home folder where it is installed or Ray's passing copy."""
    uploaded = "runtime_resources" in ROOT.parts or not (ROOT / "pyproject.toml").exists()
    return str(Path.home() / "multiclue" if uploaded else ROOT / "storage")


@dataclass(frozen=True)
class TrackingSettings:
    """Where and how runs are recorded."""

    experiment: str = "multiclue"
    """Name of the MLflow experiment."""
    uri: str | None = None
    """MLflow server or database; default: MLFLOW_TRACKING_URI, else SQLite under the storage."""
    timeout_s: float = 5.0
    """Seconds within which the MLflow server must answer before a job starts."""
    system_metrics: bool = False
    """Whether to record the driver machine's CPU, memory, disk and GPU use."""


@dataclass(frozen=True)
class RegistrySettings:
    """The registered model, and when a new version of it becomes the champion."""

    name: str = "multiclue"
    """Name of the registered model."""
    margin: float = neutral(0.0)
    """By how much (a share, 0 to 1) a challenger's main measure must exceed the champion's; 0: it
    must be better at all."""

    def __post_init__(self) -> None:
        if not self.name or any(mark in self.name for mark in "/:."):
            raise UserError(f"registry.name must not have '/', ':' or '.', got {self.name!r}")
        if not 0 <= self.margin < 1:
            raise UserError(f"registry.margin must be in [0, 1), got {self.margin!r}")


@dataclass(frozen=True)
class PromoteSettings:
    """Which version to compare with the champion, and what to do with the answer."""

    version: str = CHALLENGER
    """The version's number, or an alias."""
    force: bool = False
    """Promote whatever the comparison says."""
    dry_run: bool = False
    """Say what would be done, and change nothing."""
    storage: str = field(default_factory=default_storage)
    """Storage of the training job."""
    registry: RegistrySettings = RegistrySettings()
    """The registered model, and the margin."""
    tracking: TrackingSettings = TrackingSettings()
    """Where models are registered."""


@dataclass(frozen=True)
class PredictSettings:
    """What to predict with, and where the result goes."""

    model: str = "models:/multiclue@champion"
    """Registered model (models:/NAME@ALIAS or models:/NAME/VERSION), or the folder of one."""
    output: str | None = None
    """File for the predictions: .csv, .json or .parquet."""
    top: int = 3
    """Classes to name per video, best first."""
    embeddings: bool = False
    """Put each video's embedding into the output (.json or .parquet)."""
    storage: str = field(default_factory=default_storage)
    """Storage of the training job, whose models are looked up; also used for sharing out work."""
    share_out_from: int = 32
    """From this many videos on, Ray shares them out among the CPUs or GPUs of the cluster."""
    refinement: str | None = None
    """File that pipelines/refine.py wrote, to be used instead of the model's own refinement."""
    gpus: float = 0.5
    """Share of a GPU per predicting process, where the cluster has GPUs."""
    device: str = "auto"
    """Where networks run: auto (a GPU if there is one), cpu, or cuda."""
    precision: Literal["fp32", "bf16", "auto"] | None = None
    """Precision of the encoders on a CPU: fp32, bf16 (several times as fast on CPUs with
    AVX512-BF16; features differ from those of fp32 by about 1 %), or auto (bf16 on such CPUs);
    null: the precision of training."""
    tracking: TrackingSettings = TrackingSettings()
    """Where models are registered."""

    def __post_init__(self) -> None:
        for name in ("top", "share_out_from"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.gpus < 0:
            raise UserError(f"--gpus must be 0 or more, not {self.gpus}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device must be auto, cpu or cuda, not {self.device!r}")
        if self.precision not in (None, "fp32", "bf16", "auto"):
            raise UserError(f"--precision must be fp32, bf16 or auto, not {self.precision!r}")

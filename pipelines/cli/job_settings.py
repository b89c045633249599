"""What can be set about a job, whatever its system. Light: reading a command line imports it."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import UserError
from actors.extract_settings import ExtractSettings
from actors.neutral import neutral
from pipelines.cli.model_settings import RegistrySettings, TrackingSettings, default_storage
from pipelines.data.splits import SplitSettings
from pipelines.systems import DEFAULT


@dataclass(frozen=True)
class ResourceSettings:
    """What the stages ask Ray for; with less at hand, fewer run side by side."""

    extract_actors: int | None = None
    """Processes that decode and compute flow; null: one per CPU, or per share of a GPU."""
    extract_gpus: float = 0.1
    """Share of a GPU per extracting process, where the cluster has GPUs; 0 finds flow on CPUs.
    While some of the processes that share a GPU decode, others keep it at work."""
    embed_actors: int | None = None
    """Processes that embed clips; null: one per CPU, or per share of a GPU."""
    embed_gpus: float = 0.33
    """Share of a GPU per embedding process, where the cluster has GPUs."""
    fit_workers: int = 1
    """Processes per fit, which share its batches (DDP); 0 fits in the driver, without Ray Train."""
    fit_cpus: float | None = None
    """CPUs per fitting process; null: the cluster's CPUs divided by the
    streams, which are fitted side by side, at most 4."""
    fit_gpus: float = 0.33
    """Share of a GPU per fitting process, where the cluster has GPUs; 0.33 lets three share one."""

    def __post_init__(self) -> None:
        for name in ("extract_actors", "embed_actors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"resources.{name} must be at least 1, not {value}")
        for name in ("extract_gpus", "embed_gpus", "fit_gpus", "fit_workers"):
            if getattr(self, name) < 0:
                raise UserError(f"resources.{name} must be 0 or more, not {getattr(self, name)}")
        if self.fit_cpus is not None and self.fit_cpus <= 0:
            raise UserError(f"resources.fit_cpus must be above 0, not {self.fit_cpus}")


@dataclass(frozen=True)
class JobSettings:
    """Settings that all jobs have, whatever their system."""

    data: str | None = neutral()
    """Folder or file with the labeled videos; without it the demo set is made and used."""
    format: str = "folders"
    """How `data` is laid out: folders, csv, ucf101, hmdb51 or ccv."""
    system: str = DEFAULT
    """System to train: a name, or package.module:function."""
    storage: str = neutral(factory=default_storage)
    """Where artifacts, networks, runs and reports are kept: a folder or a URI that pyarrow
    opens."""
    report: str | None = neutral()
    """File for the figures of the report as JSON; the HTML page is always in the storage."""
    seed: int = 0
    """Fixes splits, initial weights, batches and the search."""
    max_rejected_share: float = 0.05
    """The job stops when more than this share of the videos can't be used."""
    splits: SplitSettings = SplitSettings()
    """Training, validation and test."""
    extract: ExtractSettings = ExtractSettings()
    """What is kept of a video."""
    resources: ResourceSettings = neutral(ResourceSettings())
    """CPUs and GPUs."""
    tracking: TrackingSettings = neutral(TrackingSettings())
    """MLflow runs."""
    registry: RegistrySettings = RegistrySettings()
    """MLflow model registry and promotion."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_rejected_share <= 1:
            raise UserError(
                f"max_rejected_share must be between 0 and 1, not {self.max_rejected_share}"
            )

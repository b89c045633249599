"""All settings of a job in one tree, and the command line that fills it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, Namespace

from actors.errors import UserError, nearest
from actors.extract_settings import ExtractSettings
from actors.streams import AUDIO, MOTION, SPATIAL, STREAMS
from pipelines.cli.arguments import Parser
from pipelines.cli.model_settings import RegistrySettings, TrackingSettings, default_storage
from pipelines.data.splits import SplitSettings
from trainers.settings import (
    EmbeddingSettings,
    FusionSettings,
    RefinementSettings,
    SequenceSettings,
)
from trainers.streams.settings import StreamSettings, default_stream_settings
from tuning.settings import SearchSettings

PRESETS_FOLDER = Path(__file__).parent / "presets"

SEQUENCE_STREAMS = (SPATIAL, MOTION)
"""Streams that have an LSTM (Jiang et al., figure 1)."""


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
    """CPUs per fitting process; null: the cluster's CPUs shared by three fits, at most 4."""
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


def _stream(name: str) -> Any:
    return field(default_factory=lambda: default_stream_settings(name))


@dataclass(frozen=True)
class Settings:
    """A whole job. What presets don't set has the published values."""

    data: str | None = None
    """Folder or file with the labeled videos; without it the demo set is made and used."""
    format: str = "folders"
    """How `data` is laid out: folders, csv, ucf101, hmdb51 or ccv."""
    storage: str = field(default_factory=default_storage)
    """Where artifacts, networks, runs and reports are kept: a folder or a URI that pyarrow
    opens."""
    streams: str = ",".join(STREAMS)
    """Clues to use, separated by commas."""
    report: str | None = None
    """File for the figures of the report as JSON; the HTML page is always in the storage."""
    seed: int = 0
    """Fixes splits, initial weights, batches and the search."""
    max_rejected_share: float = 0.05
    """The job stops when more than this share of the videos can't be used."""
    splits: SplitSettings = SplitSettings()
    """Training, validation and test."""
    extract: ExtractSettings = ExtractSettings()
    """What is kept of a video."""
    spatial: StreamSettings = _stream(SPATIAL)
    """CNN on single frames."""
    motion: StreamSettings = _stream(MOTION)
    """CNN on stacks of optical flow."""
    audio: StreamSettings = _stream(AUDIO)
    """CNN on spectrograms."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    """What is taken of a clip for LSTMs and fusion, and for a CNN's own scores."""
    spatial_lstm: SequenceSettings = SequenceSettings()
    """LSTM over the frames' features."""
    motion_lstm: SequenceSettings = SequenceSettings()
    """LSTM over the stacks' features."""
    fusion: FusionSettings = FusionSettings()
    """Regularized fusion network."""
    search: SearchSettings = SearchSettings()
    """Search for the fusion network's lambda2 and lambda3."""
    refinement: RefinementSettings = RefinementSettings()
    """How the ensemble's scores are refined."""
    resources: ResourceSettings = ResourceSettings()
    """CPUs and GPUs."""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow runs."""
    registry: RegistrySettings = RegistrySettings()
    """MLflow model registry and promotion."""

    def __post_init__(self) -> None:
        for name in _words(self.streams):
            if name not in STREAMS:
                raise UserError(
                    f"there is no stream {name!r}; --streams takes some of {','.join(STREAMS)}"
                    f"{nearest(name, STREAMS)}"
                )
        if not self.chosen_streams:
            raise UserError(f"--streams is empty; give some of {','.join(STREAMS)}")
        if not 0 <= self.max_rejected_share <= 1:
            raise UserError(
                f"max_rejected_share must be between 0 and 1, not {self.max_rejected_share}"
            )

    @property
    def chosen_streams(self) -> tuple[str, ...]:
        """The streams in their fixed order, whatever order they were given in."""
        return tuple(stream for stream in STREAMS if stream in _words(self.streams))

    def stream(self, name: str) -> StreamSettings:
        return {SPATIAL: self.spatial, MOTION: self.motion, AUDIO: self.audio}[name]

    def sequence(self, name: str) -> SequenceSettings:
        return {SPATIAL: self.spatial_lstm, MOTION: self.motion_lstm}[name]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def presets() -> list[str]:
    return sorted(path.stem for path in PRESETS_FOLDER.glob("*.yaml"))


def preset_file(name: str) -> Path:
    """The file of a preset.

    Raises:
        UserError: there is no such preset.
    """
    if name not in presets():
        raise UserError(
            f"there is no preset {name!r}; --preset takes {' or '.join(presets())}"
            f"{nearest(name, presets())}"
        )
    return PRESETS_FOLDER / f"{name}.yaml"


MAIN_OPTIONS = {
    "Data": ("data", "format", "streams", "splits.group_pattern", "splits.validation_share",
             "splits.test_share", "splits.number", "max_rejected_share"),
    "Settings": ("preset", "config", "seed"),
    "Results": ("storage", "report", "registry.name", "registry.margin", "tracking.uri"),
    "Clips": ("extract.flow_method", "extract.fps", "extract.short_side", "extract.max_seconds"),
    "Networks (motion, audio as spatial; motion_lstm as spatial_lstm)": (
        "spatial.network.backbone", "spatial.network.weights", "spatial.optimizer.lr",
        "spatial.optimizer.batch_size", "spatial.optimizer.max_steps",
        "spatial_lstm.optimizer.max_steps",
    ),
    "Joining": ("search.trials", "fusion.lambda2", "fusion.lambda3", "refinement.method"),
    "CPUs and GPUs": ("resources.extract_actors", "resources.extract_gpus",
                      "resources.fit_workers", "resources.fit_gpus"),
}  # fmt: skip
"""What `--help` shows."""


def make_parser(
    description: str, *, preset: str = "demo", own: Mapping[str, str] | None = None
) -> Parser:
    parser = Parser(
        Settings,
        main=MAIN_OPTIONS,
        own=own,
        description=description,
        default_config_files=[str(preset_file(preset))],
        exit_on_error=False,
    )
    parser.add_argument("--preset", default=preset, help="demo (two cores, minutes) or paper")
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with settings")
    parser.add_class_arguments(Settings)
    return parser


def parse_settings(
    description: str,
    arguments: Sequence[str] | None = None,
    *,
    own: Mapping[str, str] | None = None,
) -> Settings:
    """Reads the command line: preset, then YAML files, then single settings.

    Args:
        own: options that the job has read already -> their help.

    Raises:
        UserError: a setting that does not exist, of the wrong type or out of range.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser(description, preset=_named_preset(arguments), own=own)
    parser.given = arguments
    try:
        parsed = parser.parse_args(arguments)
        parsed.pop("preset"), parsed.pop("config"), parsed.pop("__default_config__", None)
        settings = parser.instantiate(parsed)
    except (UserError, ArgumentError, TypeError, ValueError) as error:
        raise parser.in_words(str(error), error) from error
    return Settings(**vars(settings)) if isinstance(settings, Namespace) else settings


def _named_preset(arguments: Sequence[str]) -> str:
    """The preset is known before the rest is parsed, because it sets the rest's defaults."""
    name, config = "demo", None
    for i, text in enumerate(arguments):
        for option in ("--preset", "--config"):
            value = None
            if text == option and i + 1 < len(arguments):
                value = arguments[i + 1]
            elif text.startswith(option + "="):
                value = text.split("=", 1)[1]
            if value is not None and option == "--preset":
                return value
            if value is not None:
                config = value
    if config is not None:
        name = _preset_in_file(config) or name
    return name


def _preset_in_file(config: str) -> str | None:
    path = Path(config)
    if not path.is_file():
        raise UserError(f"--config {config}: there is no such file")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"--config {config} is not YAML: {error}") from error
    return content.get("preset") if isinstance(content, dict) else None


def to_json(settings: Any) -> str:
    """The resolved settings as text that is the same for the same settings."""
    from pipelines.steps.caching import plain

    return json.dumps(plain(settings), indent=1, sort_keys=True)

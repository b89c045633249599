"""What a job was asked to do: its settings and the list of its videos, checked.

Quick to import, so that mistakes in either are reported at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.errors import UserError
from pipelines.cli.arguments import parse_arguments
from pipelines.cli.model_settings import PredictSettings, PromoteSettings
from pipelines.cli.refine_settings import RefineSettings
from pipelines.cli.settings import Settings, parse_settings
from pipelines.data import FORMATS, Manifest, read_dataset, refuse_number


@dataclass(frozen=True)
class Asked:
    """A command line that can be done.

    Args:
        manifest: the user's videos; None: the demo set, which is yet to be made.
    """

    settings: Settings
    manifest: Manifest | None


def read_job(description: str, arguments: Sequence[str] | None = None) -> Asked:
    """Reads the command line and the list of videos that it names.

    Raises:
        UserError: settings or data that can't be used.
    """
    settings = parse_settings(description, arguments)
    return Asked(settings, read_data(settings))


def read_promotion(description: str, arguments: Sequence[str] | None = None) -> PromoteSettings:
    """Reads the command line of pipelines/promote.py.

    Raises:
        UserError: settings that can't be used.
    """
    return parse_arguments(PromoteSettings, description, arguments)[0]


@dataclass(frozen=True)
class AskedPrediction:
    """What pipelines/predict.py is asked to do.

    Args:
        inputs: videos, folders of videos, or tables of paths.
    """

    settings: PredictSettings
    inputs: tuple[str, ...]


def read_prediction(description: str, arguments: Sequence[str] | None = None) -> AskedPrediction:
    """Reads the command line of pipelines/predict.py.

    Raises:
        UserError: settings that can't be used.
    """
    what = "videos, folders of videos, or tables of paths"
    settings, inputs = parse_arguments(PredictSettings, description, arguments, inputs=what)
    return AskedPrediction(settings, tuple(inputs))


@dataclass(frozen=True)
class AskedRefinement:
    """What pipelines/refine.py is asked to do.

    Args:
        path: file of the scores.
    """

    settings: RefineSettings
    path: Path


def read_refinement(description: str, arguments: Sequence[str] | None = None) -> AskedRefinement:
    """Reads the command line of pipelines/refine.py.

    Raises:
        UserError: settings that can't be used, or not one file of scores.
    """
    what = "an .npz file with scores"
    settings, inputs = parse_arguments(RefineSettings, description, arguments, inputs=what)
    if len(inputs) != 1:
        raise UserError(f"give one .npz file with scores, not {len(inputs)}")
    return AskedRefinement(settings, Path(inputs[0]).expanduser())


def read_data(settings: Settings) -> Manifest | None:
    """The manifest of the user's data; None where none is named.

    Raises:
        UserError: a format that does not exist, or data that can't be used.
    """
    if settings.data is None and settings.format in FORMATS:
        refuse_number(settings.splits, "the demo set")
        return None
    return read_dataset(
        settings.data or ".", settings.format, splits=settings.splits, seed=settings.seed
    )

"""The contents of a report: plain Python and NumPy, so that any job or notebook can make one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Opinion = tuple[str, float]
"""A class and its probability (0..1)."""


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """The data set of the run."""

    name: str
    """Name of the data set."""
    fingerprint: str
    """Fingerprint; it changes with every file, label and split."""
    clips: Mapping[str, int]
    """Split -> number of clips, in the order of display."""
    classes: Sequence[str]
    """Class names, in the order of every per-class array."""
    multi_label: bool = False
    """Whether a clip may have several labels."""
    absent: Mapping[str, int] = field(default_factory=dict)
    """Stream -> number of clips that do not have it."""
    groups: str = ""
    """Number of groups and their origin."""
    warnings: Sequence[str] = ()
    """Reasons why the figures are uncertain."""
    notes: Sequence[str] = ()
    """Notes of the stages on how they worked."""


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One row of the results table: a method and its measures on some clips.

    Shares are from 0 to 1. None: the figure does not apply (the accuracy of a multi-label set);
    NaN is read as None.
    """

    name: str
    """Key in the JSON report: ``spatial_cnn``, ``audio_cnn``, ``hybrid``, ..."""
    label: str
    """Label in tables: ``Spatial CNN``."""
    n: int
    """Number of clips that were measured."""
    accuracy: float | None = None
    """Share of the clips whose predicted class is correct."""
    mean_class_accuracy: float | None = None
    """Mean recall over classes."""
    map: float | None = None
    """Mean average precision over classes."""
    hit5: float | None = None
    """Share of the clips with a true class among the five highest scores."""
    ceiling: float | None = None
    """Best accuracy that the method's streams allow; None: not known."""
    share_of_ceiling: float | None = None
    """Share of the clips whose predicted class agrees with the true one in every clue that this
    method can see; it does not depend on guesses at the other clues."""
    note: str = ""
    """Which clips these are, such as ``clips that have sound``."""
    chosen: bool = False
    """Whether this is the output of the registered model."""


@dataclass(frozen=True, kw_only=True)
class StageTiming:
    """Duration of a stage."""

    name: str
    """The stage: ``extract``, ``spatial.fit``, ..."""
    seconds: float
    """Wall-clock seconds; for a cached stage those of the run that computed it, 0 if unknown."""
    cached: bool = False
    """Whether the result of an earlier run was reused."""
    items: int | None = None
    """Number of processed units."""
    unit: str = "clips"
    """Name of the units, in the plural."""

    @property
    def throughput(self) -> float | None:
        """Units per second; None where nothing was counted, timed or done (cached)."""
        if self.cached or not self.items or self.seconds <= 0:
            return None
        return self.items / self.seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamPicture:
    """What some streams see of a clip.

    Raises:
        ValueError: a picture whose shape does not fit its kind.
    """

    kind: Literal["pictures", "flow", "heat"]
    """How the picture is drawn."""
    caption: str
    """Caption; for an absent track the name of the track."""
    streams: Sequence[str]
    """The streams that see it."""
    picture: NDArray[Any] | None
    """pictures: (n, H, W, 3) uint8 RGB; flow: (2, H, W) in pixels, x first; heat: (bands, columns),
    the lowest band first, any unit. None where the clip has no such track."""

    def __post_init__(self) -> None:
        shapes = {"pictures": ("n", "H", "W", 3), "flow": (2, "H", "W"), "heat": ("F", "T")}
        _expect(self.picture, shapes[self.kind], self.kind)
        if self.kind == "pictures" and self.picture is not None and self.picture.dtype != np.uint8:
            raise ValueError(f"pictures are {self.picture.dtype}; give uint8 RGB, 0 to 255")


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleClip:
    """An example clip: its tracks, and the best classes of every method."""

    id: str
    """The clip's id."""
    truth: Sequence[str]
    """Its labels (a string is one label)."""
    predicted: str
    """Predicted class of the registered model."""
    probability: float
    """Probability of that class, 0..1."""
    previews: Sequence[StreamPicture] = ()
    """What the streams see of it, one picture per kind."""
    opinions: Mapping[str, Sequence[Opinion]] = field(default_factory=dict)
    """Name of a method -> its classes and probabilities; the best three are shown."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Present stream -> its share of the prediction."""

    def __post_init__(self) -> None:
        if isinstance(self.truth, str):
            object.__setattr__(self, "truth", (self.truth,))

    @property
    def right(self) -> bool:
        """Whether the predicted class is one of the labels."""
        return self.predicted in self.truth


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """The contents of the report. Empty and None fields are left out of the page.

    Raises:
        ValueError: an array's shape does not fit the number of classes; the message quotes it.
    """

    title: str
    """Heading of the page."""
    command: str
    """The command that repeats the run."""
    started: str
    """Start of the run, formatted: ``2026-03-01 14:05 UTC``."""
    data: DataSummary
    """The data set."""
    methods: Sequence[MethodResult]
    """Rows of the results table, in the order of display."""
    streams: Sequence[str] = ()
    """The system's streams, in the order of their colors."""
    joint: str | None = None
    """Row of the ensemble of all streams; None: the best row."""
    seconds: float | None = None
    """Duration of the whole run in seconds; None: the sum of the stages."""
    machine: str = ""
    """The machine in a line: processors, memory, GPUs."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The complete resolved settings, nested."""
    confusion: NDArray[np.number] | None = None
    """(C, C) counts before refinement: row = true, column = predicted. None if multi-label."""
    confusion_refined: NDArray[np.number] | None = None
    """The same after refinement."""
    ap_before: NDArray[np.floating] | None = None
    """(C,) average precision of every class before refinement, 0..1; NaN: no test clip."""
    ap_after: NDArray[np.floating] | None = None
    """(C,) the same after refinement."""
    refinement: str = ""
    """Which refinement was chosen, and why."""
    curves: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    """Fit -> records with ``step`` and any of ``loss``, ``score``, in the order of steps."""
    trials: Sequence[Mapping[str, Any]] = ()
    """Trials of the search: ``lambda2``, ``lambda3``, ``score``, ``zero_rows``, ``zero_entries``
    (shares, 0..1)."""
    best: Mapping[str, Any] = field(default_factory=dict)
    """The trial that was refitted, with the keys of a trial."""
    stages: Sequence[StageTiming] = ()
    """Stages in the order in which they ran."""
    rejected: Sequence[Mapping[str, Any]] = ()
    """Rejected videos: ``id``, ``stage``, ``kind``, ``message``."""
    examples: Sequence[ExampleClip] = ()
    """Example clips."""
    mlflow: Mapping[str, Any] = field(default_factory=dict)
    """``run_id``, ``model_version``, ``promoted``, ``reason``, ``ui_command``,
    ``tensorboard_command``; all optional."""

    def __post_init__(self) -> None:
        classes = len(self.data.classes)
        for name in ("confusion", "confusion_refined"):
            _expect(getattr(self, name), (classes, classes), name)
        for name in ("ap_before", "ap_after"):
            _expect(getattr(self, name), (classes,), name)

    @property
    def total_seconds(self) -> float:
        """Seconds of the whole run."""
        if self.seconds is not None:
            return self.seconds
        return sum(stage.seconds for stage in self.stages)


def finite(value: Any) -> float | None:
    """Returns a number as float, or None for None, NaN and infinity."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def report_json(data: ReportData) -> dict[str, Any]:
    """The report's figures for other programs: JSON types only, no NaN.

    Returns:
        ``{"methods": {name: {"accuracy", "mean_class_accuracy", "map", "hit5", "n"}},
        "stages": {name: {"seconds", "cached"}}, "rejected": int,
        "mlflow": {"run_id", "model_version", "promoted"}}``; methods with a known ceiling carry
        ``ceiling`` and ``share_of_ceiling`` as well. ``refined`` repeats the chosen method.
    """
    methods = {method.name: _figures(method) for method in data.methods}
    methods |= dict([("refined", _figures(method)) for method in data.methods if method.chosen])
    return {
        "methods": methods,
        "stages": {
            stage.name: {"seconds": finite(stage.seconds), "cached": bool(stage.cached)}
            for stage in data.stages
        },
        "rejected": len(data.rejected),
        "mlflow": {key: data.mlflow.get(key) for key in ("run_id", "model_version", "promoted")},
    }


def _figures(method: MethodResult) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "accuracy": finite(method.accuracy),
        "mean_class_accuracy": finite(method.mean_class_accuracy),
        "map": finite(method.map),
        "hit5": finite(method.hit5),
        "n": int(method.n),
    }
    if finite(method.ceiling) is not None:
        figures["ceiling"] = finite(method.ceiling)
        figures["share_of_ceiling"] = finite(method.share_of_ceiling)
    return figures


def _expect(array: NDArray[Any] | None, shape: tuple[int | str, ...], name: str) -> None:
    """Refuses an array whose shape differs from ``shape``, in which strings match any length."""
    if array is None:
        return
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(size) for size in shape)
        raise ValueError(f"{name} has the shape {array.shape}; it must be ({wanted})")

"""Promotion: the challenger becomes the champion if it is better on the same test videos.

Compares the measures that were recorded when the versions were registered. A champion that was
tested on other videos is scored on the challenger's first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.model_settings import CHAMPION, PredictSettings, PromoteSettings
from pipelines.steps.console import Console
from pipelines.steps.predict import predict_paths
from pipelines.tracking.registry import (
    METRIC_TAG,
    TEST_MANIFEST,
    TEST_TAG,
    download,
    find_version,
)
from pipelines.tracking.runs import Tracker
from trainers.metrics.measures import mean_average_precision
from trainers.prediction import PredictionRow

if TYPE_CHECKING:
    from pipelines.steps.job import Job

ALL = 1_000_000
"""Above the number of classes of any model."""


@dataclass(frozen=True)
class Promotion:
    """The decision."""

    promoted: bool
    """Whether the alias was moved."""
    reason: str
    """Why, or why not."""
    challenger: str
    """Number of the version that was compared."""
    champion: str | None
    """Number of the previous champion; None: there was none."""
    metrics: dict[str, float]
    """Main measure of ``challenger``, ``champion`` and ``chance``, as far as known."""


@dataclass(frozen=True)
class _Verdict:
    better: bool
    reason: str
    metrics: dict[str, float]


def promote(settings: PromoteSettings, console: Console | None = None) -> dict[str, Any]:
    """Compares two versions and moves the alias; returns the fields of `Promotion` as a dict.

    Raises:
        UserError: the version does not exist, or another program registered it.
    """
    storage = Storage(settings.storage)
    tracker = Tracker(settings.tracking, storage)
    tracker.reach()
    decided = decide(tracker, storage, settings)
    if console is not None:
        _say(console, settings, decided)
    return asdict(decided)


def promote_version(job: Job, version: str) -> dict[str, Any]:
    """The last step of a job; ``promoted`` is whether `version` is now the champion."""
    settings = PromoteSettings(
        version=version,
        storage=job.settings.storage,
        registry=job.settings.registry,
        tracking=job.settings.tracking,
    )
    decided = decide(job.tracker, job.storage, settings)
    now = decided.promoted or decided.champion == version
    mark = "[green]✓[/]" if now else "[yellow]–[/]"
    job.console.say(
        f"{mark} promote                  {job.settings.registry.name} {decided.reason}"
    )
    return {**asdict(decided), "promoted": now}


def _say(console: Console, settings: PromoteSettings, decided: Promotion) -> None:
    mark = "[green]✓[/]" if decided.promoted else "[yellow]–[/]"
    console.say(f"{mark} {settings.registry.name} {decided.reason}")


def decide(tracker: Tracker, storage: Storage, settings: PromoteSettings) -> Promotion:
    """Same as `promote`, with an open tracker."""
    client, name = tracker.client, settings.registry.name
    challenger = find_version(client, name, settings.version)
    if challenger is None:
        raise UserError(
            f"the model {name!r} at {tracker.uri} has no version {settings.version!r}; "
            "train one with pipelines/full.py, or give --version or --registry.name"
        )
    champion = find_version(client, name, CHAMPION)
    before = None if champion is None else str(champion.version)
    number = str(challenger.version)
    if before == number:
        metrics = {"challenger": _score(challenger)}
        return Promotion(
            False, f"version {number} is already the champion", number, before, metrics
        )
    verdict = _compare(tracker, storage, settings, challenger, champion)
    wanted, reason = verdict.better, verdict.reason
    if settings.force and not wanted:
        wanted, reason = True, f"{reason}; promoted by --force"
    if settings.dry_run:
        done = "would be" if wanted else "would not be"
        return Promotion(
            False, f"version {number} {done} promoted: {reason}", number, before, verdict.metrics
        )
    done = "is now the champion" if wanted else "was not promoted"
    reason = f"version {number} {done}: {reason}"
    if wanted:
        client.set_registered_model_alias(name, CHAMPION, number)
    client.set_model_version_tag(name, number, "decision", reason)
    return Promotion(wanted, reason, number, before, verdict.metrics)


def _compare(
    tracker: Tracker,
    storage: Storage,
    settings: PromoteSettings,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> _Verdict:
    measure, score = challenger.tags.get("measure", "score"), _score(challenger)
    if champion is None:
        chance = float(challenger.tags["chance"])
        word = "above" if score > chance else "not above"
        reason = f"there was no champion, and its {measure} of {score:.4f} is {word} chance"
        metrics = {"challenger": score, "chance": chance}
        return _Verdict(score > chance, f"{reason} ({chance:.4f})", metrics)
    how = "on the same test videos"
    if challenger.tags[TEST_TAG] == champion.tags.get(TEST_TAG):
        other = _score(champion)
    else:
        found = _rescore(tracker, storage, settings, challenger, champion)
        if isinstance(found, str):
            reason = f"version {champion.version} was tested on other videos, and {found}"
            return _Verdict(False, reason, {"challenger": score})
        other, how = found, "which was scored again on its test videos"
    return _weigh(score, other, settings.registry.margin, measure, str(champion.version), how)


def _weigh(
    score: float, other: float, margin: float, measure: str, champion: str, how: str
) -> _Verdict:
    # Scores are shares of clips: differences below the rounding error are ignored.
    gain = round(score - other, 9)
    better = gain > 0 and gain >= margin
    asked = f", {margin:.4f} is required" if margin > 0 else ""
    reason = (
        f"its {measure} is {score:.4f}, {other:.4f} for version {champion}, {how} "
        f"({gain:+.4f}{asked})"
    )
    return _Verdict(better, reason, {"challenger": score, "champion": other})


def _score(version: ModelVersion) -> float:
    """The main measure on the version's own test videos."""
    text = version.tags.get(f"{METRIC_TAG}score")
    if text is None or TEST_TAG not in version.tags:
        raise UserError(
            f"version {version.version} of {version.name!r} has no test score: it was not "
            "registered by Multiclue; train one with pipelines/full.py"
        )
    return float(text)


def _rescore(
    tracker: Tracker,
    storage: Storage,
    settings: PromoteSettings,
    challenger: ModelVersion,
    champion: ModelVersion,
) -> float | str:
    """The champion's main measure on the challenger's test videos, or why there is none."""
    try:
        text = _read_test_manifest(tracker, challenger)
    except (MlflowException, OSError) as error:
        return f"the list of the new ones cannot be read ({str(error).splitlines()[0]})"
    videos = json.loads(text)
    missing = [video["path"] for video in videos if not Path(video["path"]).is_file()]
    if missing:
        return (
            f"{len(missing)} of the {len(videos)} new ones no longer exist, such as "
            f"{missing[0]}: the two cannot be compared (--force promotes without)"
        )
    rows = predict_paths(
        download(tracker, f"models:/{champion.name}/{champion.version}"),
        [video["path"] for video in videos],
        PredictSettings(storage=storage.path(), top=ALL, tracking=settings.tracking),
    )
    labels = [video["labels"] for video in videos]
    if challenger.tags.get("measure") == "map":
        return rows_map(rows, labels)
    return rows_accuracy(rows, labels)


def _read_test_manifest(tracker: Tracker, version: ModelVersion) -> str:
    import mlflow

    with tracker.using():
        return mlflow.artifacts.load_text(f"runs:/{version.run_id}/{TEST_MANIFEST}")


def rows_accuracy(rows: Sequence[PredictionRow], labels: Sequence[Sequence[str]]) -> float:
    """Share of videos whose best class is correct; a video without a prediction is an error."""
    return float(np.mean([row["label"] in right for row, right in zip(rows, labels, strict=True)]))


def rows_map(rows: Sequence[PredictionRow], labels: Sequence[Sequence[str]]) -> float:
    """mAP over the classes that the labels name; a class or video without a score has 0."""
    classes = sorted({label for right in labels for label in right})
    index = {name: column for column, name in enumerate(classes)}
    scores: NDArray[np.float64] = np.zeros((len(rows), len(classes)))
    targets = np.zeros((len(rows), len(classes)), bool)
    for number, (row, right) in enumerate(zip(rows, labels, strict=True)):
        targets[number, [index[label] for label in right]] = True
        for name, score in zip(row["labels"], row["probabilities"], strict=True):
            if name in index:
                scores[number, index[name]] = score
    return mean_average_precision(scores, targets).value

"""Opens a job: finds the user's mistakes first, starts what costs time last."""

from __future__ import annotations

import logging
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from rich.markup import escape

from actors.errors import UserError
from actors.neutral import is_neutral
from actors.storage import Storage
from actors.tracks import FLOW, TRACKS
from pipelines.cli.command_line import read_data
from pipelines.cli.settings import Settings, as_config, to_json
from pipelines.data import Manifest, read_dataset
from pipelines.data.manifest import Split
from pipelines.steps.console import Console
from pipelines.steps.fingerprint import fingerprint
from pipelines.steps.job import Job
from pipelines.tracking.runs import Tracker
from trainers.settings import FusionSettings
from trainers.streams.settings import StreamSettings

FEW_PER_CLASS = 2
"""Clips per class, on average, below which a split is called small."""


@contextmanager
def open_job(settings: Settings, manifest: Manifest | None = None) -> Iterator[Job]:
    """Checks everything that can be wrong before work starts, then opens the job.

    Args:
        manifest: of the settings' data, where it has been read already.

    Raises:
        UserError: storage, MLflow, data or settings can't be used; nothing has been started.
    """
    quiet_libraries()
    started = datetime.now(UTC)
    console = Console()
    if settings.data is None:
        read_data(settings)
    check_settings(settings)
    storage = Storage(settings.storage)
    storage.check_writable()
    tracker = Tracker(settings.tracking, storage)
    tracker.check()
    manifest = manifest or load_data(settings, console, storage)
    check_groups(settings, manifest)
    mark = job_fingerprint(settings, manifest)
    files = storage.join("runs", f"{manifest.name}-{mark}")
    files.write_json("settings.json", as_config(settings))
    files.write_table("manifest.parquet", manifest.to_table())
    warned = split_warnings(manifest)
    _introduce(console, settings, manifest, warned)
    with ExitStack() as stack:
        job = Job(
            settings=settings,
            storage=storage,
            console=console,
            manifest=manifest,
            fingerprint=mark,
            files=files,
            tracker=tracker,
            run=stack.enter_context(tracker.parent(manifest.name, mark)),
            command=shlex.join(["pipelines/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
            started=started,
            warnings=warned,
        )
        job._stack = stack
        record_inputs(job)
        yield job


def job_fingerprint(settings: Settings, manifest: Manifest) -> str:
    """Names the run of these settings on these data, wherever either lies."""
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if not is_neutral(f)}
    return fingerprint(given, list(settings.streams), manifest.fingerprint)


def _introduce(console: Console, settings: Settings, manifest: Manifest, warned: list[str]) -> None:
    """Prints what the job works on, and what makes its figures uncertain."""
    console.say(
        f"[bold]{escape(manifest.name)}[/]: {len(manifest.classes)} classes, "
        + ", ".join(f"{n} {split}" for split, n in split_counts(manifest).items())
        + f" · {escape(groups_in_words(manifest))} · {escape(settings.system)}"
        + (f" of {', '.join(settings.streams)}" if settings.streams else "")
        + f" · storage {escape(settings.storage)}"
    )
    for text in warned:
        console.say(f"! {text}", markup=False)


def split_counts(manifest: Manifest) -> dict[str, int]:
    """Split -> number of its clips."""
    return {split: len(manifest.split(cast(Split, split))) for split in ("train", "val", "test")}


def load_data(settings: Settings, console: Console, storage: Storage) -> Manifest:
    """The manifest of the user's data, or of the demo set when none is named."""
    manifest = read_data(settings)
    if manifest is not None:
        return manifest
    from pipelines.data.demo_videos import is_made, make_demo_set

    place = storage.local("demo_videos")
    if place is None:
        place = Path.home() / "multiclue" / "demo_videos"
    begun, there = time.monotonic(), is_made(place, seed=0)
    table = make_demo_set(place, seed=0)
    console.finished("demo videos", time.monotonic() - begun, cached=there, text=str(place))
    return read_dataset(str(table), "csv", splits=settings.splits, seed=settings.seed)


def groups_in_words(manifest: Manifest) -> str:
    """How many groups there are, and where they come from."""
    if manifest.grouping.startswith("none"):
        return f"groups: {manifest.grouping}"
    groups = len({video.group for video in manifest.videos})
    return f"{groups} group{'s' if groups > 1 else ''} ({manifest.grouping})"


def split_warnings(manifest: Manifest) -> list[str]:
    """What makes figures of the validation or test clips, or choices by them, uncertain."""
    warned = []
    for split, name in (("val", "validation"), ("test", "test")):
        clips = manifest.split(cast(Split, split))
        groups = {video.group for video in clips}
        use = "what is chosen by them" if split == "val" else "figures of them"
        few = len(clips) < FEW_PER_CLASS * len(manifest.classes)
        if clips and (few or len(groups) == 1):
            n = f"{len(clips)} {name} clip{'s' if len(clips) > 1 else ''}"
            where = "all of one group" if len(groups) == 1 else f"of {len(groups)} groups"
            warned.append(
                f"only {n} for {len(manifest.classes)} classes, {where}: {use} may be chance"
                if few
                else f"the {n} are {where} ({next(iter(groups))}): {use} may hold for it alone"
            )
    return warned


def check_groups(settings: Settings, manifest: Manifest) -> None:
    """Cross-validation needs two groups of training clips; that is known before any work.

    Raises:
        UserError: there are fewer.
    """
    groups = {video.group for video in manifest.split("train")}
    searched = getattr(settings.system_settings, "searched", False)
    if searched and len(groups) < 2:
        raise UserError(
            f"all training clips belong to one group ({next(iter(groups))!r}), which the search "
            "for lambda2 and lambda3 can't divide into folds; give each clip a group of its own "
            "(--splits.group_pattern null), or turn the search off (--search.trials 0)"
        )


def record_inputs(job: Job) -> None:
    """Settings, versions and data fingerprint, so that the run can be repeated."""
    if job.run.finished:
        return
    job.run.log_params(as_config(job.settings))
    job.run.log_text("settings.json", to_json(job.settings))
    job.run.log_dataset(
        name=job.manifest.name,
        fingerprint=job.manifest.fingerprint,
        source=str(job.settings.data or "demo"),
        profile={"classes": list(job.manifest.classes), **split_counts(job.manifest)},
    )


def check_settings(settings: Settings) -> None:
    """Builds what can have a wrong name or shape, before anything is started.

    Raises:
        UserError: no streams or tracks; a stream, encoder, sequence model or fusion that does not
            exist; weights that do not fit.
    """
    from actors.flow.choice import RAFT
    from actors.flow.raft import load_network
    from trainers.fusion.models import check_fusion

    if not settings.streams and hasattr(settings.system_settings, "streams"):
        raise UserError(
            f"the system {settings.system!r} has no streams; name at least one under `streams` in "
            "a --config file"
        )
    if not settings.tracks:
        raise UserError(
            f"the settings of the system {settings.system!r} name no tracks; give their class "
            f"{type(settings.system_settings).__name__} a field `streams`, or a property or class "
            f"variable `tracks` with some of {', '.join(TRACKS)}"
        )
    for name, chosen in settings.streams.items():
        try:
            _check_stream(name, chosen)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    for one in fields(settings.system_settings):
        fusion = getattr(settings.system_settings, one.name)
        if isinstance(fusion, FusionSettings):
            check_fusion(fusion.model)
    if FLOW in settings.tracks and isinstance(settings.extract.chosen_flow, RAFT):
        load_network(settings.extract.chosen_flow)


def _check_stream(name: str, settings: StreamSettings) -> None:
    from trainers.encoders.factory import check_encoder
    from trainers.encoders.task import open_stream
    from trainers.sequence.factory import check_sequence_model
    from trainers.streams.kinds import make_stream

    make_stream(name, settings)
    check_encoder(settings.encoder)
    if settings.sequence.present:
        check_sequence_model(settings.sequence.model)
    weights = settings.weights not in (None, "none")
    if weights or settings.fine_tune_from or settings.crop is None:
        open_stream(name, settings, n_classes=2)


def quiet_libraries() -> None:
    """Keeps lines off the terminal that the reader can do nothing about."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)

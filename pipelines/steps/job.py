"""A job: its settings, storage, data, MLflow run and Ray, opened in the order that finds mistakes
first and costs last."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.markup import escape

from actors.errors import UserError
from actors.storage import Storage
from actors.streams import MOTION
from pipelines.cli.command_line import read_data
from pipelines.cli.settings import Settings, to_json
from pipelines.data import Manifest, read_dataset
from pipelines.data.manifest import Split
from pipelines.report.data import StageTiming
from pipelines.steps.caching import Facts, StageResult, fingerprint, plain, run_stage
from pipelines.steps.console import Console
from pipelines.tracking.runs import Run, Tracker

if TYPE_CHECKING:
    from actors.pool.board import Board
    from trainers.fit.pool import FitPool

FITTING_MODULES = ("trainers.encoders.task", "trainers.sequence.task")
"""What workers that fit import while they wait."""


@dataclass
class Job:
    """What the steps of a job share.

    Args:
        name: of the data set.
        fingerprint: of settings and data together; names the run folder and the MLflow run.
        files: the run folder: settings, tables, report.
    """

    settings: Settings
    storage: Storage
    console: Console
    manifest: Manifest
    fingerprint: str
    files: Storage
    tracker: Tracker
    run: Run
    command: str
    started: datetime
    warnings: Sequence[str] = ()
    timings: list[StageTiming] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the stages have to say of how they worked, for the report."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _ray_lock: Any = field(default_factory=threading.RLock)
    _board: Board | None = None
    _fits: FitPool | None = None

    def stage(
        self,
        name: str,
        key: Any,
        work: Callable[[Storage], Facts],
        *,
        items: int | None = None,
        unit: str = "clips",
        describe: Callable[[Facts], str] = lambda facts: "",
    ) -> StageResult:
        """Runs a stage unless it is finished, and says so in one line."""
        result = run_stage(self.storage, name, key, work)
        self.note(result, items=items, unit=unit, text=describe(result.facts))
        return result

    def note(
        self, result: StageResult, *, items: int | None = None, unit: str = "clips", text: str = ""
    ) -> None:
        timing = StageTiming(
            name=result.name, seconds=result.seconds, cached=result.cached, items=items, unit=unit
        )
        self.timings.append(timing)
        if result.cached and result.seconds:
            text = f"{text}  (done before, in {result.seconds:.1f} s)".strip()
        self.console.finished(result.name, result.seconds, cached=result.cached, text=text)

    def board(self) -> Board:
        """The board that workers report to; the first call starts or joins Ray."""
        with self._ray_lock:
            if self._board is None:
                begun = time.monotonic()
                # Linux ends Ray's processes with the thread that started them, and this may be the
                # thread of one stream, so a thread of its own outlives all steps.
                owner = self._stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="ray"))
                session = ray_session()
                owner.submit(session.__enter__).result()
                self._stack.push(session.__exit__)
                from actors.pool.board import Board

                self._board = self._stack.enter_context(Board())
                self.console.say(f"  [dim]Ray is ready after {time.monotonic() - begun:.1f} s[/]")
            return self._board

    def fit_pool(self) -> FitPool | None:
        """Workers for fits, which the first call starts in the background; None where each fit has
        workers of its own (with GPUs or several) or none."""
        if self.settings.resources.fit_workers != 1:
            return None
        with self._ray_lock:
            self.board()
            import ray

            have = ray.cluster_resources()
            if self._fits is None and not (have.get("GPU") and self.settings.resources.fit_gpus):
                from trainers.fit.pool import FitPool

                workers = min(len(self.settings.chosen_streams), int(have.get("CPU", 1)))
                pool = FitPool(workers, self.files.path("ray"), preload=FITTING_MODULES)
                self._fits = self._stack.enter_context(pool)
            return self._fits

    def end_fits(self) -> None:
        """No fit follows soon: lets the workers go, without waiting for them."""
        with self._ray_lock:
            pool, self._fits = self._fits, None
        if pool is not None:
            pool.retire()


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
    result_settings = {
        k: v
        for k, v in vars(settings).items()
        if k not in ("report", "storage", "resources", "data", "streams", "tracking")
    }
    mark = fingerprint(result_settings, settings.chosen_streams, manifest.fingerprint)
    files = storage.join("runs", f"{manifest.name}-{mark}")
    files.write_json("settings.json", plain(settings))
    files.write_table("manifest.parquet", manifest.to_table())
    counts = {split: len(manifest.split(split)) for split in ("train", "val", "test")}
    console.say(
        f"[bold]{escape(manifest.name)}[/]: {len(manifest.classes)} classes, "
        + ", ".join(f"{n} {split}" for split, n in counts.items())
        + f" · {escape(groups_in_words(manifest))}"
        + f" · streams {', '.join(settings.chosen_streams)} · storage {escape(settings.storage)}"
    )
    warned = split_warnings(manifest)
    for text in warned:
        console.say(f"! {text}", markup=False)
    with ExitStack() as stack:
        run = stack.enter_context(tracker.parent(manifest.name, mark))
        job = Job(
            settings=settings,
            storage=storage,
            console=console,
            manifest=manifest,
            fingerprint=mark,
            files=files,
            tracker=tracker,
            run=run,
            command=shlex.join(["pipelines/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
            started=started,
            warnings=warned,
        )
        job._stack = stack
        record_inputs(job, counts)
        yield job


def groups_in_words(manifest: Manifest) -> str:
    """How many groups there are, and where they come from."""
    if manifest.grouping.startswith("none"):
        return f"groups: {manifest.grouping}"
    groups = len({video.group for video in manifest.videos})
    return f"{groups} group{'s' if groups > 1 else ''} ({manifest.grouping})"


FEW_PER_CLASS = 2
"""Clips per class, on average, below which a split is said to be small."""


def split_warnings(manifest: Manifest) -> list[str]:
    """What makes figures of the validation or test clips, or choices by them, uncertain."""
    told = []
    for split, name in (("val", "validation"), ("test", "test")):
        clips = manifest.split(cast(Split, split))
        groups = {video.group for video in clips}
        use = "what is chosen by them" if split == "val" else "figures of them"
        few = len(clips) < FEW_PER_CLASS * len(manifest.classes)
        if clips and (few or len(groups) == 1):
            n = f"{len(clips)} {name} clip{'s' if len(clips) > 1 else ''}"
            where = "all of one group" if len(groups) == 1 else f"of {len(groups)} groups"
            told.append(
                f"only {n} for {len(manifest.classes)} classes, {where}: {use} may be chance"
                if few
                else f"the {n} are {where} ({next(iter(groups))}): {use} may hold for it alone"
            )
    return told


def check_groups(settings: Settings, manifest: Manifest) -> None:
    """Cross-validation needs two groups of training clips; that is known before any work.

    Raises:
        UserError: there are fewer.
    """
    groups = {video.group for video in manifest.split("train")}
    if settings.search.trials and len(groups) < 2:
        raise UserError(
            f"all training clips are of one group ({next(iter(groups))!r}), which the search for "
            "lambda2 and lambda3 can't cut into folds; give clips groups of their own "
            "(--splits.group_pattern null), or search nothing (--search.trials 0)"
        )


def record_inputs(job: Job, counts: dict[str, int]) -> None:
    """Settings, versions and data fingerprint, so that the run can be repeated."""
    if job.run.finished:
        return
    job.run.log_params(vars(job.settings))
    job.run.log_text("settings.json", to_json(job.settings))
    job.run.log_dataset(
        name=job.manifest.name,
        fingerprint=job.manifest.fingerprint,
        source=str(job.settings.data or "demo"),
        profile={"classes": list(job.manifest.classes), **counts},
    )


def check_settings(settings: Settings) -> None:
    """Builds what can be misnamed or misshapen, before anything is started.

    Raises:
        UserError: a backbone that does not exist, weights that do not fit.
    """
    from actors.flow.choice import RAFT
    from actors.flow.raft import load_network
    from trainers.encoders.backbones import build_network, check_backbone
    from trainers.streams.settings import input_channels

    for stream in settings.chosen_streams:
        chosen = settings.stream(stream)
        try:
            check_backbone(chosen.network.backbone)
            if chosen.network.weights not in (None, "none"):
                channels = input_channels(stream, chosen)
                build_network(chosen.network, in_channels=channels, n_classes=2)
        except UserError as error:
            raise UserError(f"{stream}.network: {error}") from error
    if MOTION in settings.chosen_streams and isinstance(settings.extract.chosen_flow, RAFT):
        load_network(settings.extract.chosen_flow)


def quiet_libraries() -> None:
    """Nothing on the terminal that the reader can do nothing about."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def ray_session() -> Iterator[None]:
    """Joins the Ray that RAY_ADDRESS names (a submitted job's is set); else starts its own.

    Without that name Ray would also join a cluster that another program started for itself, and
    die with it.

    Raises:
        UserError: the cluster does not answer.
    """
    import ray

    named = os.environ.get("RAY_ADDRESS")
    if not named:
        _name_own_ray()
    try:
        with _muted_stderr():
            ray.init(
                address=named or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                ignore_reinit_error=True,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if not named:
            _forget_own_ray()
        raise UserError(
            f"Ray at {named or 'this machine'} can't be joined: {error}; "
            "see `ray status`, or unset RAY_ADDRESS to start one here"
        ) from error
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        # The process is about to end, and what it started ends with it. Closing Ray in the middle
        # of its own work instead may abort the process.
        raise
    except BaseException:
        ray.shutdown()
        raise
    else:
        ray.shutdown()
    finally:
        if not named:
            _forget_own_ray()


def _name_own_ray() -> None:
    """Tells the processes of the Ray about to be started which Ray is theirs.

    Ray Train's guard of a fit asks the state API whether the fit is alive. Unnamed, that API takes
    whatever Ray was last started on this machine by `ray start`, running or not; it then waits 12 s
    for an answer, or hears that there is no such fit and takes its workers away.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"


def _forget_own_ray() -> None:
    for name in ("RAY_GCS_SERVER_PORT", "RAY_ADDRESS"):
        os.environ.pop(name, None)


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Keeps the lines that Ray's C++ core prints while it starts; failures come as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

"""Workers of Ray Train that start ahead of the fits and are kept from one to the next. Moves.

A run of Ray Train per fit starts a controller, its helpers and the workers each time, which takes
longer than a small fit. A `FitPool` is one such run: Ray Train starts its workers, and starts them
again when one dies; their training function takes fits from a desk until the desk is closed.
"""

from __future__ import annotations

import importlib
import logging
import pickle
import threading
import traceback
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
import ray.train
from ray import cloudpickle
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from actors.errors import UserError
from trainers.fit.desk import Desk, End

WORKER_RESTARTS = 3
"""How often a fit may lose its worker, or fail, before it counts as failed."""
GROUP_RESTARTS = 24
"""How often the workers may be started again in all: no fit may be to blame."""
WAIT_S = 5.0
"""A call that waits for something to happen returns after this, to be made again."""
CLOSE_S = 15.0
"""Longest that closing waits for the workers to leave."""
HELD: dict[str, float] = {"CPU": 0, "memory": 1}
"""What a kept worker asks Ray for, a byte, as it must be something. While it waits it uses no CPU,
and other steps of the job could not have one that it held; so the job shares its CPUs out itself.
"""

Work = Callable[[Callable[[], bool]], None]
"""A fit as a worker runs it. It is given a function that says whether to stop, is started again
after a worker was lost, and leaves its result in the storage."""


class FitFailed(RuntimeError):
    """A fit ended with an exception that is no user's mistake, which is its cause."""


class FitPool:
    """Workers that fit what they are given, as many side by side as there are workers.

    They start in the background. Leaving the ``with`` block lets them go; a fit that is in hand
    then stops after its step and keeps a checkpoint.

    Args:
        workers: processes.
        storage_path: folder or URI where Ray Train keeps what it knows of the run.
        preload: modules that the workers import while there is nothing to do yet.
    """

    def __init__(self, workers: int, storage_path: str, *, preload: Sequence[str] = ()) -> None:
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        made: Any = ray.remote(num_cpus=0)(Desk)
        self._desk: ActorHandle = made.remote(WORKER_RESTARTS)
        self._trainer = _trainer(self._desk, workers, storage_path, tuple(preload))
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[str, Future[None]]] = {}
        self._gone: BaseException | None = None
        self._threads = [
            threading.Thread(target=target, name=f"fits-{name}", daemon=True)
            for name, target in (("train", self._train), ("news", self._listen))
        ]

    def __enter__(self) -> FitPool:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, Exception):  # else Ray ends with this process
            self.close()

    def run(self, name: str, work: Work) -> None:
        """Runs a piece of work on the next worker that is free, and waits for its end.

        Raises:
            UserError: it found a mistake of the user's.
            FitFailed: it failed, time and again, or its worker died.
        """
        key, future = uuid.uuid4().hex, Future[None]()
        with self._lock:
            if self._gone is not None:
                raise FitFailed(f"{name}: the workers have gone") from self._gone
            self._asked[key] = name, future
        # In a list, so that it is the worker and not the desk that unpacks it.
        ray.get(self._desk.put.remote(key, [ray.put(work)]))
        future.result()

    def retire(self) -> None:
        """Lets the workers go, without waiting for them."""
        self._lose(FitFailed("the job has ended"))
        self._desk.close.remote()

    def close(self) -> None:
        """Lets the workers go, waiting `CLOSE_S` at most; whoever waits for a fit is told."""
        self.retire()
        # A thread that is inside Ray while it shuts down may end the process.
        for thread in self._threads:
            thread.join(CLOSE_S)
        ray.kill(self._desk)

    def _train(self) -> None:
        try:
            self._trainer.fit()
        except (TrainingFailedError, RayError) as error:
            self._lose(error)
        else:
            self._lose(FitFailed("Ray Train has ended its run"))

    def _listen(self) -> None:
        while self._gone is None:
            try:
                ends: list[End] = ray.get(self._desk.news.remote(WAIT_S))
            except RayError as error:
                self._lose(error)
                return
            for end in ends:
                self._settle(end)

    def _settle(self, end: End) -> None:
        with self._lock:
            name, future = self._asked.pop(end.key, ("", None))
        if future is None:
            return
        if end.lost:
            future.set_exception(FitFailed(f"{name} has lost its worker {end.lost} times"))
        elif end.failure is not None:
            future.set_exception(_named(name, *pickle.loads(end.failure)))  # noqa: S301
        else:
            future.set_result(None)

    def _lose(self, error: BaseException) -> None:
        """Nobody does the work any more: tells all who wait for it."""
        with self._lock:
            self._gone = self._gone or error
            asked, self._asked = self._asked, {}
        for name, future in asked.values():
            failed = FitFailed(f"{name} was not finished: {error}")
            failed.__cause__ = error
            future.set_exception(failed)


def _trainer(
    desk: ActorHandle, workers: int, storage_path: str, preload: tuple[str, ...]
) -> DataParallelTrainer:
    """Workers of Ray Train that have nothing to say to each other: no process group of torch."""
    return DataParallelTrainer(
        _serve,
        train_loop_config={"desk": desk, "preload": preload},
        scaling_config=ScalingConfig(
            num_workers=workers,
            resources_per_worker=dict(HELD),
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name="fits",
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=GROUP_RESTARTS),
        ),
    )


def _serve(config: dict[str, Any]) -> None:
    """What a worker does: imports what fits need, then fits what there is to fit."""
    for module in config["preload"]:
        importlib.import_module(module)
    with suppress(RayActorError):  # without its desk there is nothing to do, nor anyone to tell
        _work_for(config["desk"], ray.train.get_context().get_world_rank())


def _work_for(desk: ActorHandle, worker: int) -> None:
    closed: Any = desk.closed.remote()

    def leave() -> bool:
        return bool(ray.wait([closed], timeout=0)[0])

    ray.get(desk.begin.remote(worker))
    while not leave():
        taken = ray.get(desk.take.remote(worker, WAIT_S))
        if taken is not None:
            key, (work,) = taken
            failure, final = _try(ray.get(work), leave)
            ray.get(desk.end.remote(worker, key, failure, final))


def _try(work: Work, leave: Callable[[], bool]) -> tuple[bytes | None, bool]:
    """What went wrong, pickled, and whether it would again."""
    try:
        work(leave)
    except UserError as error:
        return cloudpickle.dumps((error, "")), True
    except Exception as error:  # noqa: BLE001  the driver raises it
        return _pickled(error), False
    return None, True


def _pickled(error: Exception) -> bytes:
    """The exception and its traceback as text; of one that can't be pickled, its text alone."""
    text = "".join(traceback.format_exception(error))
    try:
        data: bytes = cloudpickle.dumps((error, text))
        pickle.loads(data)  # noqa: S301
    except Exception:  # noqa: BLE001  a class may refuse in any way it likes
        return cloudpickle.dumps((RuntimeError(str(error)), text))
    return data


def _named(name: str, error: Exception, trace: str) -> Exception:
    """What `FitPool.run` raises."""
    if isinstance(error, UserError):
        return UserError(f"{name}: {error}")
    failed = FitFailed(f"{name} failed on its worker:\n{trace}")
    failed.__cause__ = error
    return failed

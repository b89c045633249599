"""Workers of Ray Train that start before the first fit and are kept between fits. Moves.

One run of Ray Train per fit starts a controller and workers each time, which takes longer than a
small fit. A `FitPool` is a single run: Ray Train starts its workers, and restarts them when one
dies; their training function takes fits from a queue until the queue is closed.
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
from trainers.fit.fit_queue import FitQueue, Outcome

WORKER_RESTARTS = 3
"""Number of times that a fit may lose its worker or fail before it counts as failed."""
GROUP_RESTARTS = 24
"""Number of restarts of the workers in all, as no fit may be the cause."""
WAIT_S = 5.0
"""Seconds after which a waiting call to the queue returns and is made again."""
CLOSE_S = 15.0
"""Largest number of seconds that closing waits for the workers to end."""
HELD: dict[str, float] = {"CPU": 0, "memory": 1}
"""Resources of a kept worker: one byte of memory, as Ray Train requires something. A CPU held by an
idle worker would be lost to the other steps; so the job divides its CPUs among fits itself.
"""

FitFunction = Callable[[Callable[[], bool]], None]
"""A fit as a worker runs it. Its argument is a function that returns whether to stop. It leaves its
result in the storage, and continues from its checkpoint when it is called again."""


class FitFailed(RuntimeError):
    """A fit ended with an exception other than a `UserError`; that exception is the cause."""


class FitPool:
    """Workers that run fits side by side.

    They start in the background and end with the ``with`` block; a fit that is running then stops
    after its current step, with a checkpoint.

    Args:
        workers: number of processes.
        storage_path: folder or URI of the state of the run of Ray Train.
        preload: modules that the workers import before the first fit.
    """

    def __init__(self, workers: int, storage_path: str, *, preload: Sequence[str] = ()) -> None:
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        made: Any = ray.remote(num_cpus=0)(FitQueue)
        self._queue: ActorHandle = made.remote(WORKER_RESTARTS)
        self._trainer = _trainer(self._queue, workers, storage_path, tuple(preload))
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[str, Future[None]]] = {}
        self._gone: BaseException | None = None
        self._threads = [
            threading.Thread(target=target, name=f"fits-{name}", daemon=True)
            for name, target in (("train", self._train), ("outcomes", self._collect))
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

    def run(self, name: str, work: FitFunction) -> None:
        """Runs a fit on the next free worker and waits until it ends.

        Args:
            name: of the fit, for errors.
            work: the fit.

        Raises:
            UserError: the fit raised one.
            FitFailed: the fit failed, or lost its worker, more than `WORKER_RESTARTS` times.
        """
        key, future = uuid.uuid4().hex, Future[None]()
        with self._lock:
            if self._gone is not None:
                raise FitFailed(f"{name}: the workers have ended") from self._gone
            self._asked[key] = name, future
        # In a list, so that the worker and not the queue deserializes it.
        ray.get(self._queue.put.remote(key, [ray.put(work)]))
        future.result()

    def retire(self) -> None:
        """Tells the workers to end, without waiting for them."""
        self._lose(FitFailed("the job has ended"))
        self._queue.close.remote()

    def close(self) -> None:
        """Ends the workers, within `CLOSE_S`; pending calls of `run` raise `FitFailed`."""
        self.retire()
        # A thread that is inside Ray while Ray shuts down can crash the process.
        for thread in self._threads:
            thread.join(CLOSE_S)
        ray.kill(self._queue)

    def _train(self) -> None:
        try:
            self._trainer.fit()
        except (TrainingFailedError, RayError) as error:
            self._lose(error)
        else:
            self._lose(FitFailed("Ray Train has ended its run"))

    def _collect(self) -> None:
        while self._gone is None:
            try:
                ended: list[Outcome] = ray.get(self._queue.outcomes.remote(WAIT_S))
            except RayError as error:
                self._lose(error)
                return
            for outcome in ended:
                self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        with self._lock:
            name, future = self._asked.pop(outcome.key, ("", None))
        if future is None:
            return
        if outcome.lost:
            future.set_exception(FitFailed(f"{name} has lost its worker {outcome.lost} times"))
        elif outcome.failure is not None:
            future.set_exception(_named(name, *pickle.loads(outcome.failure)))  # noqa: S301
        else:
            future.set_result(None)

    def _lose(self, error: BaseException) -> None:
        """Fails all pending fits after the workers were lost."""
        with self._lock:
            self._gone = self._gone or error
            asked, self._asked = self._asked, {}
        for name, future in asked.values():
            failed = FitFailed(f"{name} was not finished: {error}")
            failed.__cause__ = error
            future.set_exception(failed)


def _trainer(
    queue: ActorHandle, workers: int, storage_path: str, preload: tuple[str, ...]
) -> DataParallelTrainer:
    """Workers of Ray Train that do not communicate: no process group of torch."""
    return DataParallelTrainer(
        _serve,
        train_loop_config={"queue": queue, "preload": preload},
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
    """The training function of a worker: imports what fits need, then runs fits."""
    for module in config["preload"]:
        importlib.import_module(module)
    with suppress(RayActorError):  # without its queue a worker has nothing to do
        _work_for(config["queue"], ray.train.get_context().get_world_rank())


def _work_for(queue: ActorHandle, worker: int) -> None:
    closed: Any = queue.wait_closed.remote()

    def leave() -> bool:
        return bool(ray.wait([closed], timeout=0)[0])

    ray.get(queue.register.remote(worker))
    while not leave():
        taken = ray.get(queue.take.remote(worker, WAIT_S))
        if taken is not None:
            key, (work,) = taken
            failure, final = _try(ray.get(work), leave)
            ray.get(queue.finish.remote(worker, key, failure, final))


def _try(work: FitFunction, leave: Callable[[], bool]) -> tuple[bytes | None, bool]:
    """Returns the pickled exception, if any, and whether a repetition is useless."""
    try:
        work(leave)
    except UserError as error:
        return cloudpickle.dumps((error, "")), True
    except Exception as error:  # noqa: BLE001  the driver raises it
        return _pickled(error), False
    return None, True


def _pickled(error: Exception) -> bytes:
    """Pickles an exception and its traceback as text; if that fails, its message instead."""
    text = "".join(traceback.format_exception(error))
    try:
        data: bytes = cloudpickle.dumps((error, text))
        pickle.loads(data)  # noqa: S301
    except Exception:  # noqa: BLE001  pickling may raise anything
        return cloudpickle.dumps((RuntimeError(str(error)), text))
    return data


def _named(name: str, error: Exception, trace: str) -> Exception:
    """What `FitPool.run` raises."""
    if isinstance(error, UserError):
        return UserError(f"{name}: {error}")
    failed = FitFailed(f"{name} failed on its worker:\n{trace}")
    failed.__cause__ = error
    return failed

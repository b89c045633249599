"""Hands a fit to Ray Train: workers, restarts, checkpoints. Moves; the loop itself computes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

from actors.errors import UserError
from actors.storage import Storage
from trainers.fit.loop import FitResult, FitTask, fit
from trainers.settings import OptimizerSettings

if TYPE_CHECKING:
    from trainers.fit.pool import FitPool

CHECKPOINT = "checkpoint.pt"
RESULT = "result.json"
REFUSAL = "refusal.json"
"""A user's mistake that a worker found; a restart would find it again."""
WORKER_RESTARTS = 3

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class FitSpec:
    """A fit that can be sent to a worker.

    Args:
        name: for instance ``spatial.fit``.
        make_task: builds the task on the worker that runs it.
        finish: writes what the fit is for (the network) into the storage, given the task with its
            best weights loaded.
    """

    name: str
    make_task: Callable[[], FitTask]
    finish: Callable[[FitTask, Storage], None]
    optimizer: OptimizerSettings
    seed: int
    output: Storage


@dataclass(frozen=True)
class FitResources:
    """What one fit asks Ray for.

    Args:
        workers: processes that share the batches (DDP); 0 fits in this process, without Ray.
        cpus: CPUs per worker; a fraction lets several fits share a core.
        gpus: GPUs per worker; a fraction lets several fits share a GPU.
    """

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0


def fit_with_ray(
    spec: FitSpec, resources: FitResources, progress: Progress, pool: FitPool | None = None
) -> dict[str, Any]:
    """Runs the fit to its end, from its last checkpoint if there is one.

    Args:
        pool: workers that already run. They take fits of one worker without a GPU; other fits
            start workers of their own, which takes little time compared with the fit itself.

    Returns:
        history (list of metrics by step), best_step, steps, waited_s and step_s.
    """
    if spec.output.exists(RESULT):
        return spec.output.read_json(RESULT)
    if resources.workers == 0:
        _fit_here(spec, progress, rank=0, world_size=1, device="cpu", wrap=None)
        return spec.output.read_json(RESULT)
    if pool is not None and resources.workers == 1 and not resources.gpus:
        pool.run(spec.name, partial(_fit_kept, spec, progress, resources.cpus))
    else:
        _fit_alone(spec, resources, progress)
    return spec.output.read_json(RESULT)


def _fit_alone(spec: FitSpec, resources: FitResources, progress: Progress) -> None:
    """A run of Ray Train for this fit."""
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer = TorchTrainer(
        _fit_on_worker,
        train_loop_config={
            "spec": spec,
            "progress": progress,
            "cpus": resources.cpus,
            "gpus": resources.gpus,
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus}
            | ({"GPU": resources.gpus} if resources.gpus else {}),
        ),
        run_config=RunConfig(
            name="train",
            storage_path=spec.output.path("ray"),
            failure_config=FailureConfig(max_failures=WORKER_RESTARTS),
        ),
    )
    spec.output.remove(REFUSAL)
    trainer.fit()
    if spec.output.exists(REFUSAL):
        raise UserError(f"{spec.name}: {spec.output.read_json(REFUSAL)}")


def _fit_kept(spec: FitSpec, progress: Progress, cpus: float, stop: Callable[[], bool]) -> None:
    """A fit on a worker of a pool, which may have fitted others before."""
    if not spec.output.exists(RESULT):
        torch.set_num_threads(max(1, int(cpus)))
        _fit_here(spec, progress, rank=0, world_size=1, device="cpu", wrap=None, stop=stop)


def _fit_on_worker(config: dict[str, Any]) -> None:
    spec: FitSpec = config["spec"]
    if spec.output.exists(RESULT):
        return  # a restart after the last step
    context = ray.train.get_context()
    cuda = config["gpus"] > 0 and torch.cuda.is_available()
    torch.set_num_threads(max(1, int(config["cpus"])))
    world_size = context.get_world_size()
    try:
        _fit_here(
            spec,
            config["progress"],
            rank=context.get_world_rank(),
            world_size=world_size,
            device=str(ray.train.torch.get_device()) if cuda else "cpu",
            wrap=prepare_model if world_size > 1 else None,
        )
    except UserError as error:
        spec.output.write_json(REFUSAL, str(error))


def _fit_here(
    spec: FitSpec,
    progress: Progress,
    *,
    rank: int,
    world_size: int,
    device: str,
    wrap: Callable[[torch.nn.Module], torch.nn.Module] | None,
    stop: Callable[[], bool] | None = None,
) -> None:
    task = spec.make_task()
    first = rank == 0

    def load() -> bytes | None:
        found = spec.output.exists(CHECKPOINT)
        return spec.output.read_bytes(CHECKPOINT) if found else None

    def save(checkpoint: bytes, metrics: dict[str, float]) -> None:
        if first:
            spec.output.write_bytes(CHECKPOINT, checkpoint)

    def tell(done: int, total: int, metrics: dict[str, float]) -> None:
        if first:
            progress(done, total, metrics)

    result = fit(
        task,
        spec.optimizer,
        seed=spec.seed,
        device=device,
        rank=rank,
        world_size=world_size,
        wrap_model=wrap,
        load=load,
        save=save,
        progress=tell,
        should_stop=stop,
    )
    if first and not result.stopped:
        _write_result(spec, task, result)


def _write_result(spec: FitSpec, task: FitTask, result: FitResult) -> None:
    """Writes the network first and the result last; the checkpoint is no longer needed then."""
    task.model.load_state_dict(result.best_state)
    spec.finish(task, spec.output)
    spec.output.write_json(
        RESULT,
        {
            "history": result.history,
            "best_step": result.best_step,
            "waited_s": result.waited_s,
            "step_s": result.step_s,
        },
    )
    spec.output.remove(CHECKPOINT)

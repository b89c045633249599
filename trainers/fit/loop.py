"""Fitting a network: steps, schedule, validation, checkpoints that resume bit for bit."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from actors.errors import UserError
from trainers.fit.optimizer import build_optimizer, half_precision, place
from trainers.fit.prefetch import prefetch
from trainers.fit.randomness import seeded
from trainers.settings import OptimizerSettings

__all__ = ["FitResult", "FitTask", "OptimizerSettings", "fit"]

_REPORT_EVERY = 10
"""Steps between two calls of `progress` and, on a GPU, between two looks at the loss."""


class FitTask(Protocol):
    """What `fit` fits. `StreamTask` and `SequenceTask` are such tasks."""

    @property
    def model(self) -> nn.Module:
        """What is fitted."""
        ...

    def batch(self, step: int, rank: int, world_size: int) -> dict[str, Tensor]:
        """This rank's share of a step's batch: always the same, safe to call from any thread."""
        ...

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss over a batch that is on the model's device."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measures over the validation examples: ``score``, which is maximized, and ``loss``,
        which decides between equal scores; empty where there are no such examples."""
        ...


@dataclass(frozen=True)
class FitResult:
    """The result of a fit.

    Attributes:
        history: one dict per evaluation: step, lr, train_loss, score and
            other measures, and the seconds per step that the loop waited for input (waited_s) and
            took in all (step_s).
        best_state: weights of the step with the best score (of the last step where there are no
            validation examples), on the CPU; empty on ranks other than 0.
        best_step: that step.
        waited_s: seconds that the loop waited for input, over all steps of this call.
        step_s: seconds that all steps of this call took, with waiting but without evaluation.
        stopped: `should_stop` ended it before it was done; it can be resumed.
    """

    history: list[dict[str, float]]
    best_state: dict[str, Tensor]
    best_step: int
    waited_s: float
    step_s: float
    stopped: bool


def fit(
    task: FitTask,
    settings: OptimizerSettings,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    wrap_model: Callable[[nn.Module], nn.Module] | None = None,
    load: Callable[[], bytes | None] | None = None,
    save: Callable[[bytes, dict[str, float]], None] | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Fits a task's model.

    A fit that is resumed from its last checkpoint ends, on a CPU bit for bit, where an undisturbed
    one ends: batches and dropout depend on (seed, step) only.

    Args:
        task: the model, its batches, loss and validation.
        settings: optimizer and schedule.
        seed: of dropout; the task has its own for batches.
        device: where the model is fitted.
        rank, world_size: this worker among those that fit together. Ranks other than 0 neither
            evaluate nor save nor report; they wait for rank 0's decisions.
        wrap_model: what makes the model a distributed one, such as DistributedDataParallel.
        load: gives the last checkpoint's bytes, or None; called once on each rank.
        save: keeps a checkpoint's bytes (plain tensors and values, for
            ``torch.load(weights_only=True)``) with the last entry of the history. Called at the
            end too, so that a finished fit that is started again has nothing to do.
        progress: called with (step, settings.max_steps, measures) after each evaluation and
            every few steps.
        should_stop: asked after every step (every few steps where several workers fit together);
            True ends the fit after a checkpoint.

    Raises:
        UserError: the loss is not finite; there are more workers than samples in a batch.
    """
    if world_size > settings.batch_size:
        raise UserError(
            f"{world_size} workers can't share a batch of {settings.batch_size}: take fewer "
            "workers or a larger batch_size"
        )
    fitting = _Fitting(task, settings, seed, torch.device(device), rank, world_size)
    fitting.start(wrap_model, load() if load else None)
    stopped = False
    batches = prefetch(
        lambda step: task.batch(step, rank, world_size),
        range(fitting.step, settings.max_steps if not fitting.finished else fitting.step),
        threads=settings.loader_threads,
        ahead=settings.prefetch,
    )
    with contextlib.closing(batches):
        while not fitting.finished and not stopped:
            fitting.take_step(batches)
            measures = fitting.look() if fitting.due(settings.evaluate_every) else None
            if progress and rank == 0 and (measures or fitting.step % _REPORT_EVERY == 0):
                progress(fitting.step, settings.max_steps, measures or fitting.recent())
            stopped = not fitting.finished and fitting.asked_to_stop(should_stop)
            if save and (stopped or fitting.due(settings.checkpoint_every)):
                fitting.check_finite()
                if rank == 0:
                    save(fitting.checkpoint(), fitting.history[-1] if fitting.history else {})
    return FitResult(
        fitting.history,
        fitting.best["state"] if rank == 0 else {},
        fitting.best["step"],
        fitting.waited_s,
        fitting.step_s,
        stopped,
    )


class _Fitting:
    """The state of a fit, all of which a checkpoint holds."""

    def __init__(
        self,
        task: FitTask,
        settings: OptimizerSettings,
        seed: int,
        device: torch.device,
        rank: int,
        world_size: int,
    ) -> None:
        self.task, self.settings, self.seed = task, settings, seed
        self.device, self.rank, self.world_size = device, rank, world_size
        self._devices = [torch.cuda.current_device()] if device.type == "cuda" else []
        self.step = 0
        self.finished = False
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"score": None, "loss": 0.0, "step": 0, "state": {}}
        self.stale = 0  # looks since the best one
        self.waited_s = self.step_s = 0.0
        self._looked_at = (0, 0.0, 0.0)  # step, waited_s and step_s at the last look
        self._half = half_precision(settings, device)
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._half == torch.float16)

    def start(
        self, wrap_model: Callable[[nn.Module], nn.Module] | None, checkpoint: bytes | None
    ) -> None:
        self.model = place(self.task.model, self.device)
        state = None
        if checkpoint is not None:
            buffer = io.BytesIO(checkpoint)
            state = torch.load(buffer, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
        self.model.train()
        self._wrapped = wrap_model(self.model) if wrap_model else self.model
        self._optimizer = build_optimizer(self._wrapped, self.settings)
        # Sums since the last look stay on the device, so that a step need not wait for them.
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self._sum_device())
        self._loss_steps = 0
        if state is not None:
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self._loss_sum += state["loss_sum"]
            self._loss_steps = state["loss_steps"]
            self.step = state["step"]
            self.finished = state["finished"] or self.step >= self.settings.max_steps
            self.history, self.best, self.stale = state["history"], state["best"], state["stale"]
            self._looked_at = (state["looked_at"], 0.0, 0.0)

    def checkpoint(self) -> bytes:
        buffer = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "loss_sum": float(self._loss_sum),
            "loss_steps": self._loss_steps,
            "step": self.step,
            "finished": self.finished,
            "history": self.history,
            "best": self.best,
            "stale": self.stale,
            "looked_at": self._looked_at[0],
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def due(self, every: int) -> bool:
        return self.finished or self.step % every == 0 or self.step == self.settings.max_steps

    def take_step(self, batches: Iterator[dict[str, Tensor]]) -> None:
        began = time.perf_counter()
        batch = next(batches)
        self.waited_s += time.perf_counter() - began
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.lr_at(self.step)
        self._loss_sum += self._gradient(batch)
        self._loss_steps += 1
        self._scaler.unscale_(self._optimizer)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._wrapped.parameters(), self.settings.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step += 1
        if self.device.type == "cpu" or self.step % _REPORT_EVERY == 0:
            self.check_finite()
        self.step_s += time.perf_counter() - began

    def _gradient(self, batch: dict[str, Tensor]) -> Tensor:
        """Adds up the gradients of the batch's parts; returns the batch's mean loss."""
        self._optimizer.zero_grad(set_to_none=True)
        size = len(next(iter(batch.values())))
        parts = min(self.settings.accumulate, size)
        total = torch.zeros_like(self._loss_sum)
        bounds = [round(size * i / parts) for i in range(parts + 1)]
        entropy = np.random.SeedSequence([self.seed, self.step, self.rank])
        seeds = entropy.generate_state(parts, np.uint64)
        for (first, last), seed in zip(itertools.pairwise(bounds), seeds, strict=True):
            part = {
                name: value[first:last].to(self.device, non_blocking=True)
                for name, value in batch.items()
            }
            # Workers average their gradients: where shares differ by one, they are weighed.
            share = (last - first) * self.world_size / self.settings.batch_size
            with self._no_sync(last < size), self._autocast():
                with seeded(int(seed), self._devices):
                    loss = self.task.loss(self._wrapped, part)
                self._scaler.scale(loss * share).backward()
            total += loss.detach() * ((last - first) / size)
        return total

    def look(self) -> dict[str, float]:
        """Evaluates on rank 0, remembers the best weights, and decides whether to go on."""
        self.check_finite()
        entry: dict[str, float] = {}
        if self.rank == 0:
            with self._autocast():
                measures = self.task.evaluate(self.model)
            entry = {**self.recent(), **measures}
            self._compare(measures, entry)
            self.history.append(entry)
        patience = self.settings.patience
        done = self.step >= self.settings.max_steps
        done = done or (patience is not None and self.stale >= patience)
        self.finished = self._of_rank_0(done)
        self._loss_sum = torch.zeros_like(self._loss_sum)
        self._loss_steps = 0
        self._looked_at = (self.step, self.waited_s, self.step_s)
        return entry

    def _compare(self, measures: dict[str, float], entry: dict[str, float]) -> None:
        if "score" in measures:
            score, loss = measures["score"], measures.get("loss", 0.0)
        else:  # nothing to validate on: the newest weights are the best
            score = entry["score"] = -entry["train_loss"]
            loss = 0.0
        if self._is_better(score, loss) or "score" not in measures:
            state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            self.best = {"score": score, "loss": loss, "step": self.step, "state": state}
            self.stale = 0
        else:
            self.stale += 1

    def _is_better(self, score: float, loss: float) -> bool:
        before, least = self.best["score"], self.best["loss"]
        if before is None or self.settings.keep == "last":
            return True
        if self.settings.keep == "loss":
            return (-loss, score) > (-least, before)
        return (score, -loss) > (before, -least)

    def recent(self) -> dict[str, float]:
        """Means since the last look."""
        step, waited, took = self._looked_at
        steps = max(self.step - step, 1)
        return {
            "step": self.step,
            "lr": self.settings.lr_at(self.step - 1),
            "train_loss": float(self._loss_sum) / max(self._loss_steps, 1),
            "waited_s": (self.waited_s - waited) / steps,
            "step_s": (self.step_s - took) / steps,
        }

    def check_finite(self) -> None:
        if not math.isfinite(float(self._loss_sum)):
            raise UserError(
                f"the loss is no longer finite at step {self.step} with learning rate "
                f"{self.settings.lr_at(self.step - 1):g}: set a lower lr, or clip_norm"
            )

    def asked_to_stop(self, should_stop: Callable[[], bool] | None) -> bool:
        if should_stop is None:
            return False
        if not _distributed():
            return should_stop()
        # All must agree, and agreeing takes time: not at every step.
        return self.step % _REPORT_EVERY == 0 and self._of_rank_0(should_stop())

    def _of_rank_0(self, decision: bool) -> bool:
        if not _distributed():
            return decision
        flag = torch.tensor([int(decision)], device=self.device)
        torch.distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def _no_sync(self, more: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients of all but the last part stay where they are."""
        no_sync = getattr(self._wrapped, "no_sync", None)
        return no_sync() if more and no_sync is not None else contextlib.nullcontext()

    def _autocast(self) -> torch.autocast:
        dtype = self._half or torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self._half is not None)

    def _sum_device(self) -> torch.device:
        return self.device if self.device.type in ("cpu", "cuda") else torch.device("cpu")


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()

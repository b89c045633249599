"""A fit that takes a second: a linear network on numbers drawn from (seed, step)."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from actors.errors import UserError
from actors.storage import Storage
from trainers.fit.ray_fit import FitSpec
from trainers.settings import OptimizerSettings

STEPS = 12
OPTIMIZER = OptimizerSettings(
    name="adam",
    lr=1e-2,
    batch_size=4,
    max_steps=STEPS,
    lr_drop_every=100,
    evaluate_every=4,
    checkpoint_every=2,
    patience=None,
    loader_threads=1,
)


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("not me")


@dataclass
class SmallTask:
    """What happens at the sixth step, the first time: see `mishap`."""

    seen: Path
    mishap: str = ""
    step_s: float = 0.0

    def __post_init__(self):
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    def batch(self, step, rank, world_size):
        generator = torch.Generator().manual_seed(step)
        return {"x": torch.randn(4, 8, generator=generator)}

    def loss(self, model, batch):
        time.sleep(self.step_s)
        self._note()
        return model(batch["x"]).square().mean()

    @torch.no_grad()
    def evaluate(self, model):
        return {"score": -float(model(torch.ones(1, 8)).square().mean()), "loss": 0.0}

    def _note(self):
        (self.seen / f"pid-{os.getpid()}").touch()
        with (self.seen / "steps").open("a") as file:
            file.write(".")
        if len((self.seen / "steps").read_text()) >= 6:
            self._happen()

    def _happen(self):
        first = not (self.seen / "happened").exists()
        (self.seen / "happened").touch()
        if self.mishap == "always killed" or (self.mishap == "killed" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mishap == "full" or (self.mishap == "full once" and first):
            raise OSError(28, "No space left on device", "/data")
        if self.mishap == "odd":
            raise Unpicklable("an odd one")
        if self.mishap == "user":
            raise UserError("set a lower lr")


@dataclass
class MakeTask:
    seen: Path
    mishap: str = ""
    step_s: float = 0.0

    def __call__(self):
        return SmallTask(self.seen, self.mishap, self.step_s)


def finish(task, storage):
    storage.write_json("weights.json", {k: v.tolist() for k, v in task.model.state_dict().items()})


def small_fit(folder, name, mishap="", step_s=0.0):
    seen = Path(folder, f"{name}-seen")
    seen.mkdir()
    output = Storage(Path(folder, name))
    return FitSpec(name, MakeTask(seen, mishap, step_s), finish, OPTIMIZER, 1, output)


def processes(spec):
    return {path.name for path in spec.make_task.seen.glob("pid-*")}


def steps(spec):
    return len((spec.make_task.seen / "steps").read_text())

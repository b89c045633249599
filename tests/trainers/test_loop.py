import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from clips import array_examples, open_array_clip
from torch import nn

from actors.errors import UserError
from trainers.encoders.task import EncoderTask
from trainers.fit.loop import fit
from trainers.fit.optimizer import build_optimizer
from trainers.fit.prefetch import prefetch
from trainers.settings import OptimizerSettings
from trainers.streams.settings import StreamSettings

OPTIMIZER = OptimizerSettings(
    name="sgd",
    lr=0.05,
    batch_size=8,
    max_steps=12,
    lr_drop_every=5,
    evaluate_every=4,
    checkpoint_every=3,
    patience=None,
    loader_threads=2,
)


def stream_task(optimizer=OPTIMIZER, **options):
    settings = StreamSettings(
        encoder="own:cnn_m_small",
        weights="none",
        feature_dim=16,
        crop=16,
        fit=optimizer,
        **options,
    )
    return EncoderTask("spatial", settings, array_examples(), 3, False, 5, opener=open_array_clip)


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        OPTIMIZER,
        replace(OPTIMIZER, name="adam", lr=1e-3, accumulate=2, clip_norm=1.0),
        replace(OPTIMIZER, name="adamw", lr=1e-3),
    ],
    ids=lambda o: o.name,
)
@pytest.mark.parametrize("dies_after", [3, 7, 11])
def test_a_resumed_fit_is_bit_for_bit_an_undisturbed_one(optimizer, dies_after):
    whole = fit(stream_task(optimizer), optimizer, seed=1)
    kept = []

    class Dying(EncoderTask):
        def loss(self, model, batch):
            self.asked = getattr(self, "asked", 0) + 1
            if self.asked > dies_after * optimizer.accumulate:
                raise Interrupted
            return super().loss(model, batch)

    first = stream_task(optimizer)
    first.__class__ = Dying
    with pytest.raises(Interrupted):
        fit(first, optimizer, seed=1, save=lambda data, _: kept.append(data))
    torch.manual_seed(99)  # what the process drew before must not matter
    rest = fit(stream_task(optimizer), optimizer, seed=1, load=lambda: kept[-1])
    assert whole.best_step == rest.best_step
    for name, value in whole.best_state.items():
        assert torch.equal(value, rest.best_state[name]), name

    def untimed(history):
        return [{k: v for k, v in h.items() if not k.endswith("_s")} for h in history]

    assert untimed(whole.history) == untimed(rest.history)


@pytest.mark.slow
def test_fits_side_by_side_in_threads_end_as_fits_alone():
    seeds = range(1, 5)

    def weights(seed):
        return fit(stream_task(), OPTIMIZER, seed=seed).best_state

    alone = [weights(seed) for seed in seeds]
    before = torch.random.get_rng_state()
    with ThreadPoolExecutor(len(seeds)) as pool:
        together = list(pool.map(weights, seeds))
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(alone[0][name], alone[1][name]) for name in alone[0])


def test_checkpoints_hold_nothing_pickled_and_a_finished_fit_has_nothing_to_do():
    kept = []
    done = fit(stream_task(), OPTIMIZER, seed=1, save=lambda data, m: kept.append((data, m)))
    assert [m.get("step") for _, m in kept] == [None, 4, 8, 12]
    assert torch.load(io.BytesIO(kept[-1][0]), weights_only=True)["finished"]
    task = stream_task()
    task.batch = task.loss = task.evaluate = None
    again = fit(task, OPTIMIZER, seed=1, load=lambda: kept[-1][0])
    assert again.history == done.history
    assert again.best_step == done.best_step
    assert again.step_s == 0


def test_stopping_saves_and_goes_on_to_the_same_end():
    whole = fit(stream_task(), OPTIMIZER, seed=1)
    kept, steps = [], []
    part = fit(
        stream_task(),
        OPTIMIZER,
        seed=1,
        save=lambda data, _: kept.append(data),
        should_stop=lambda: steps.append(1) or len(steps) == 5,
    )
    assert part.stopped
    rest = fit(stream_task(), OPTIMIZER, seed=1, load=lambda: kept[-1])
    assert not rest.stopped
    for name, value in whole.best_state.items():
        assert torch.equal(value, rest.best_state[name]), name


class Scripted:
    """A task whose validation scores are given; its weight counts the steps."""

    def __init__(self, scores, losses=None):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self._measures = iter(zip(scores, losses or [0.0] * len(scores), strict=True))
        self.lrs = []

    def batch(self, step, rank, world_size):
        return {"x": torch.ones(2, 1)}

    def loss(self, model, batch):
        return -model(batch["x"]).mean()

    def evaluate(self, model):
        score, loss = next(self._measures)
        return {"score": score, "loss": loss} if score is not None else {}


PLAIN = OptimizerSettings(
    lr=1.0,
    momentum=0.0,
    weight_decay=0.0,
    batch_size=2,
    max_steps=10,
    evaluate_every=1,
    lr_drop_every=None,
    patience=2,
)


def test_fitting_ends_early_with_the_best_weights():
    result = fit(Scripted([0.1, 0.5, 0.4, 0.5, 0.9]), PLAIN, seed=0)
    assert [h["score"] for h in result.history] == [0.1, 0.5, 0.4, 0.5]
    assert result.best_step == 2
    assert float(result.best_state["weight"]) == pytest.approx(2.0)


def test_of_equal_scores_the_lower_loss_is_better():
    result = fit(Scripted([0.5, 0.5, 0.5, 0.5], [3, 2, 2.5, 2]), PLAIN, seed=0)
    assert result.best_step == 2
    assert len(result.history) == 4


@pytest.mark.parametrize(("keep", "best"), [("score", 2), ("loss", 3), ("last", 5)])
def test_whose_weights_are_kept_is_chosen(keep, best):
    task = Scripted([0.1, 0.9, 0.4, 0.4, 0.3], [3.0, 2.0, 1.0, 1.5, 4.0])
    result = fit(task, replace(PLAIN, keep=keep, max_steps=5, patience=None), seed=0)
    assert result.best_step == best
    assert float(result.best_state["weight"]) == pytest.approx(best)  # it counts the steps


def test_of_equal_losses_the_higher_score_is_better():
    task = Scripted([0.1, 0.3, 0.2, 0.9], [1.0, 1.0, 1.0, 2.0])
    result = fit(task, replace(PLAIN, keep="loss"), seed=0)
    assert result.best_step == 2
    assert len(result.history) == 4  # patience counts looks without a lower loss


def test_without_validation_all_steps_are_taken_and_the_last_weights_kept():
    result = fit(Scripted([None] * 10), PLAIN, seed=0)
    assert result.best_step == 10
    assert result.history[-1]["score"] == -result.history[-1]["train_loss"] == pytest.approx(9)


def test_the_learning_rate_drops_on_schedule():
    result = fit(Scripted([0.0] * 10), replace(PLAIN, lr_drop_every=4, patience=None), seed=0)
    assert [h["lr"] for h in result.history] == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)
    assert float(result.best_state["weight"]) == pytest.approx(1.0)


def test_accumulation_changes_nothing_but_memory():
    chosen = replace(SHARED, max_steps=10, patience=None)
    whole = fit(Squares([None] * 10), chosen, seed=0)
    parts = fit(Squares([None] * 10), replace(chosen, accumulate=3), seed=0)
    torch.testing.assert_close(whole.best_state, parts.best_state)
    assert whole.history[-1]["train_loss"] == pytest.approx(parts.history[-1]["train_loss"])


def test_the_gradient_is_clipped():
    steep = replace(PLAIN, clip_norm=0.25)
    assert float(fit(Scripted([None] * 10), steep, seed=0).best_state["weight"]) == pytest.approx(
        2.5
    )


def test_a_loss_that_is_not_finite_is_said_with_what_to_do():
    class Diverging(Scripted):
        def loss(self, model, batch):
            return super().loss(model, batch) * float("nan")

    with pytest.raises(UserError, match=r"no longer finite at step 1 .* rate 1: set a lower lr"):
        fit(Diverging([0.0] * 10), PLAIN, seed=0)


def test_more_workers_than_samples_are_refused():
    with pytest.raises(UserError, match="3 workers can't share a batch of 2"):
        fit(Scripted([0.0]), PLAIN, seed=0, world_size=3)


def test_progress_and_waiting_are_told():
    told = []
    result = fit(
        stream_task(), OPTIMIZER, seed=1, progress=lambda step, total, m: told.append((step, total))
    )
    assert told == [(4, 12), (8, 12), (10, 12), (12, 12)]
    assert 0 < result.waited_s < result.step_s
    assert all(0 <= h["waited_s"] <= h["step_s"] for h in result.history)


def names_of_threads():
    return {t.name for t in threading.enumerate() if t.name.startswith("prefetch")}


def test_no_thread_outlives_a_fit_that_fails():
    class Failing(Scripted):
        def batch(self, step, rank, world_size):
            if step == 3:
                raise OSError("the disk is gone")
            return super().batch(step, rank, world_size)

    with pytest.raises(OSError, match="the disk is gone"):
        fit(Failing([None] * 10), PLAIN, seed=0)
    assert names_of_threads() == set()


def test_prefetching_keeps_order_and_bound():
    started, most = [], 0

    def work(i):
        started.append(i)
        return i * i

    for n, result in enumerate(prefetch(work, range(20), threads=3, ahead=5)):
        assert result == n * n
        most = max(most, len(started) - n)
    assert len(started) == 20
    assert most <= 6
    assert names_of_threads() == set()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_take_the_settings(name):
    chosen = OptimizerSettings(name=name, lr=0.3, momentum=0.8, weight_decay=0.01)
    group = build_optimizer(nn.Linear(2, 2), chosen).param_groups[0]
    assert group["lr"] == 0.3
    assert group["weight_decay"] == 0.01
    assert group.get("momentum", group.get("betas", (None,))[0] if name != "sgd" else None) == 0.8


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"momentum": 1.0},
        {"batch_size": 0},
        {"name": "lion"},
        {"mixed_precision": "fp8"},
        {"patience": 0},
        {"keep": "first"},
        {"weight_decay": -1},
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        OptimizerSettings(**wrong)


class Squares(Scripted):
    """Fits a weight to samples that differ, so that sharing them out wrongly would show."""

    def batch(self, step, rank, world_size):
        return {"x": (torch.arange(1.0, 6)[:, None] + step)[rank::world_size]}

    def loss(self, model, batch):
        return ((model(batch["x"]) - 1) ** 2).mean()


SHARED = replace(PLAIN, lr=1e-3, batch_size=5, max_steps=30, momentum=0.9)
SCORES = [0.1, 0.2, 0.9, 0.3, 0.4]


def fit_as_worker(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    saved = []
    result = fit(
        Squares(SCORES if rank == 0 else []),
        SHARED,
        seed=0,
        rank=rank,
        world_size=2,
        wrap_model=nn.parallel.DistributedDataParallel,
        save=lambda data, _: saved.append(data),
    )
    torch.save([len(result.history), result.best_state, len(saved)], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_fit_as_one_and_stop_together(tmp_path):
    torch.multiprocessing.spawn(fit_as_worker, (str(tmp_path),), nprocs=2)
    alone = fit(Squares(SCORES), SHARED, seed=0)
    looks, state, saves = torch.load(tmp_path / "0.pt", weights_only=True)
    assert looks == len(alone.history) == 5
    # Three and two samples, each weighed as if all five were in one process.
    torch.testing.assert_close(state, alone.best_state)
    assert saves == 1
    assert torch.load(tmp_path / "1.pt", weights_only=True) == [0, {}, 0]

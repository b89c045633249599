"""Kept workers on a small local Ray: fits end as they do alone, whatever becomes of workers."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
import small_fit as small_fit_module
from small_fit import STEPS, processes, small_fit, steps

from actors.errors import UserError
from trainers.fit.pool import FitFailed, FitPool
from trainers.fit.ray_fit import CHECKPOINT, RESULT, FitResources, fit_with_ray

pytestmark = pytest.mark.ray


def silent(done, total, metrics):
    pass


@pytest.fixture(scope="module")
def cluster():
    for module in (small_fit_module, __import__(__name__)):
        ray.cloudpickle.register_pickle_by_value(module)
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    ray.init(address="local", num_cpus=2, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pool(cluster, tmp_path_factory):
    with FitPool(2, str(tmp_path_factory.mktemp("pool"))) as pool:
        yield pool


def fit_here(folder):
    spec = small_fit(folder, "here")
    fit_with_ray(spec, FitResources(workers=0), silent)
    return spec.output.read_json("weights.json")


def test_fits_are_those_of_a_bare_loop_and_share_their_workers(pool, tmp_path):
    specs = [small_fit(tmp_path, f"fit{i}") for i in range(5)]
    with ThreadPoolExecutor(5) as threads:
        results = list(threads.map(lambda s: fit_with_ray(s, FitResources(), silent, pool), specs))
    assert len(set().union(*map(processes, specs))) <= 2
    # Other steps share the CPUs out by what Ray says is free.
    assert ray.available_resources()["CPU"] == 2
    weights = fit_here(tmp_path)
    for spec, result in zip(specs, results, strict=True):
        assert spec.output.read_json("weights.json") == weights
        assert [look["step"] for look in result["history"]] == [4, 8, 12]
        assert steps(spec) == STEPS
        assert not spec.output.exists(CHECKPOINT)


def test_a_killed_worker_costs_the_steps_since_the_checkpoint(pool, tmp_path):
    other = small_fit(tmp_path, "other", step_s=0.3)
    killed = small_fit(tmp_path, "killed", "killed")
    with ThreadPoolExecutor(2) as threads:
        beside = threads.submit(fit_with_ray, other, FitResources(), silent, pool)
        fit_with_ray(killed, FitResources(), silent, pool)
        beside.result()
    weights = fit_here(tmp_path)
    for spec in (killed, other):
        assert spec.output.read_json("weights.json") == weights
        assert STEPS <= steps(spec) <= STEPS + 3
    assert len(processes(killed)) == 2


def test_a_mistake_of_the_users_is_told_at_once(pool, tmp_path):
    spec = small_fit(tmp_path, "mine", "user")
    with pytest.raises(UserError, match="mine: set a lower lr"):
        fit_with_ray(spec, FitResources(), silent, pool)
    assert steps(spec) == 6


def test_what_passes_is_tried_again_from_the_checkpoint(pool, tmp_path):
    spec = small_fit(tmp_path, "once", "full once")
    fit_with_ray(spec, FitResources(), silent, pool)
    assert spec.output.read_json("weights.json") == fit_here(tmp_path)
    assert steps(spec) <= STEPS + 3


def test_what_does_not_pass_is_raised_with_its_cause_and_traceback(pool, tmp_path):
    with pytest.raises(
        FitFailed, match="(?s)full failed on its worker:.*Traceback.*_happen"
    ) as info:
        fit_with_ray(small_fit(tmp_path, "full", "full"), FitResources(), silent, pool)
    assert isinstance(info.value.__cause__, OSError) and info.value.__cause__.errno == 28
    with pytest.raises(FitFailed, match="an odd one"):
        fit_with_ray(small_fit(tmp_path, "odd", "odd"), FitResources(), silent, pool)


def test_closing_ends_fits_after_their_step_and_leaves_no_worker(cluster, tmp_path):
    spec = small_fit(tmp_path, "stopped", step_s=0.5)
    pool = FitPool(1, str(tmp_path / "ray")).__enter__()
    raised = []

    def fit():
        try:
            fit_with_ray(spec, FitResources(), silent, pool)
        except FitFailed as error:
            raised.append(str(error))

    thread = threading.Thread(target=fit)
    thread.start()
    while not spec.output.exists(CHECKPOINT):
        time.sleep(0.05)
    begun = time.monotonic()
    pool.close()
    assert time.monotonic() - begun < 10
    thread.join(5)
    assert raised == ["stopped was not finished: the job has ended"]
    assert spec.output.exists(CHECKPOINT) and not spec.output.exists(RESULT)
    (process,) = processes(spec)
    deadline = time.monotonic() + 10
    while Path("/proc", process.removeprefix("pid-")).exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(FitFailed, match="the workers have ended"):
        pool.run("late", lambda stop: None)
    fit_with_ray(spec, FitResources(workers=0), silent)
    assert spec.output.read_json("weights.json") == fit_here(tmp_path)
    assert steps(spec) == STEPS

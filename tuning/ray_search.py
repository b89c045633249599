"""Ray Tune over `tuning.fusion_search`: which lambda2 and lambda3 the fusion network gets."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import optuna
import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from actors.errors import UserError
from actors.storage import Storage
from trainers.fit.folds import group_folds
from trainers.fusion.training import rank
from trainers.settings import FusionSettings
from trainers.table import Table
from tuning.fusion_search import cross_validate, search_plan
from tuning.progress import Listener, OnTrials, listening
from tuning.settings import SearchSettings

RESULT = "search.json"
PLAN = "plan.json"
CURVES = (
    "epoch",
    "loss",
    "score",
    "held_out_loss",
    "best_score",
    "zero_rows",
    "zero_entries",
    "time_total_s",
)
TUNE_ENVIRONMENT = {
    # Seconds between two snapshots of the search: points take seconds here, not hours.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    # The newer console output prints a banner even at verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
}
WORKER_RESTARTS = 3
"""How often a point may lose its worker before it counts as failed."""


@dataclass(frozen=True)
class SearchResult:
    """What the search found."""

    lambda2: float
    """Of the best point by `trainers.fusion.training.rank`: highest score, of equal ones the
    smallest held-out squared error; with ``fusion.keep="loss"`` the smallest such error."""
    lambda3: float
    """Of the best point."""
    score: float
    """Of the best point: accuracy (multi-label: mAP) over all clips, each held out once."""
    trials: list[dict[str, Any]]
    """A row per point: trial, lambda2, lambda3, score, held_out_loss, zero_rows, zero_entries
    (of its best epoch), epoch, epochs, state (finished, stopped or failed), seconds."""
    curves: dict[str, list[dict[str, float]]]
    """trial -> its reports in order, each of the measures named in `CURVES`."""


def search(
    table: Table,
    settings: SearchSettings,
    *,
    fusion: FusionSettings,
    storage: Storage,
    name: str = "fusion-search",
    seed: int = 0,
    progress: OnTrials | None = None,
    resume: bool = True,
) -> SearchResult:
    """Searches lambda2 and lambda3 by cross-validation on the training clips.

    Points come from Optuna's TPE, the first being (0, 0); ASHA stops those that fall behind. Tune
    keeps its state, and TensorBoard curves of every point, in the folder ``name`` of ``storage``.
    After a crash the same call goes on there: finished points are kept, others start again.

    By default as many points are tried at a time as there are free CPUs, less one. With several
    the result also depends on which finishes first, as the next point is drawn from those known by
    then, and ASHA compares with those. With ``settings.concurrent=1`` it is decided by ``seed``.

    Args:
        table: the training clips; no group is split between two folds.
        settings: the search, of at least one trial.
        fusion: the network whose lambdas are searched.
        storage: where the search's folder is.
        name: of that folder.
        seed: of points, folds, weights and order.
        progress: called with the points done, those in all, and the best one's measures.
        resume: go on with, or return, what is in the folder; else it must not hold a search yet.

    Raises:
        UserError: the cluster has too few CPUs or GPUs for one point, the folder holds a search
            and ``resume`` is off or its settings were others, the clips are all of one group, or
            no point could be finished.
        ValueError: no trials.
    """
    if not settings.trials:
        raise ValueError("search.trials is 0: take the fusion's own lambda2 and lambda3 instead")
    group_folds(table.groups, settings.folds, targets=table.targets, seed=seed)
    folder = storage.join(name)
    plan = search_plan(table, settings, fusion, seed=seed)
    _claim(folder, plan, resume=resume)
    if folder.exists(RESULT):
        return SearchResult(**folder.read_json(RESULT))
    trainable = tune.with_resources(
        tune.with_parameters(try_point, table=table, settings=settings, fusion=fusion, seed=seed),
        {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial},
    )
    concurrent = _concurrent(settings)
    with listening(folder.uri, progress), _tune_environment():
        if tune.Tuner.can_restore(folder.path()):
            tuner = tune.Tuner.restore(folder.path(), trainable, resume_errored=True)
        else:
            tuner = _new_tuner(trainable, settings, fusion, storage, name, seed, concurrent)
        result = _result(tuner.fit(), fusion)
    folder.write_json(RESULT, asdict(result))
    return result


def try_point(
    config: dict[str, Any],
    *,
    table: Table,
    settings: SearchSettings,
    fusion: FusionSettings,
    seed: int,
) -> None:
    """Cross-validates one point in a Tune worker, reporting every few epochs."""
    torch.set_num_threads(max(1, int(settings.cpus_per_trial)))
    on_gpu = settings.gpus_per_trial > 0 and torch.cuda.is_available()
    last: dict[str, float] = {}

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        last.clear()
        last.update({**metrics, "epoch": epoch, "finished": 0})
        if epoch % settings.report_every == 0:
            tune.report(dict(last))

    cross_validate(
        table,
        fusion,
        lambda2=config.get("lambda2", 0.0),
        lambda3=config.get("lambda3", 0.0),
        folds=settings.folds,
        seed=seed,
        on_epoch=on_epoch,
        device="cuda" if on_gpu else "cpu",
    )
    tune.report({**last, "finished": 1})


def _space(trial: Any, least: float, most: float) -> dict[str, Any]:
    """Draws a point for Optuna's `trial`: first (0, 0), then one lambda or both, log-uniform."""
    if trial.number > 0:
        norms = trial.suggest_categorical("norms", ["rows", "entries", "both"])
        for name, covers in (("lambda2", "rows"), ("lambda3", "entries")):
            if norms in (covers, "both"):
                trial.suggest_float(name, least, most, log=True)
    return {"point": trial.number}


def _new_tuner(
    trainable: Any,
    settings: SearchSettings,
    fusion: FusionSettings,
    storage: Storage,
    name: str,
    seed: int,
    concurrent: int,
) -> tune.Tuner:
    scheduler = ASHAScheduler(
        time_attr="epoch",
        max_t=fusion.max_epochs + 1,  # a point that ran all its epochs was not stopped
        grace_period=min(settings.grace_epochs, fusion.max_epochs),
        reduction_factor=settings.reduction_factor,
    )
    searcher = OptunaSearch(
        space=partial(_space, least=settings.lambda_min, most=settings.lambda_max),
        metric="rank_value",
        mode="max",
        seed=seed,
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="rank_value",
            mode="max",
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=settings.trials,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=_trial_folder,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage.path(),
            verbose=0,
            # A point whose worker was lost starts again; one that fails of itself is given up.
            failure_config=tune.FailureConfig(max_failures=WORKER_RESTARTS),
            callbacks=[Listener(storage.join(name).uri, settings.trials, fusion)],
        ),
    )


def _trial_folder(trial: Any) -> str:
    lambdas = [f"{trial.config.get(name, 0.0):.1e}" for name in ("lambda2", "lambda3")]
    return f"{_name(trial.config)}_lambda2={lambdas[0]}_lambda3={lambdas[1]}"


def _name(config: Mapping[str, Any]) -> str:
    return f"point_{config['point']:03d}"


def _concurrent(settings: SearchSettings) -> int:
    """How many points fit beside what else runs, one CPU being left to Ray Data's own tasks."""
    for kind, wanted in (("CPU", settings.cpus_per_trial), ("GPU", settings.gpus_per_trial)):
        there = ray.cluster_resources().get(kind, 0.0)
        if wanted > there:
            raise UserError(
                f"one point of the search wants {wanted:g} {kind}s and the cluster has {there:g}; "
                f"lower search.{kind.lower()}s_per_trial"
            )
    if settings.concurrent is not None:
        return settings.concurrent
    free = ray.available_resources().get("CPU", 0.0) - 1
    return max(1, math.floor(free / settings.cpus_per_trial))


def _claim(folder: Storage, plan: dict[str, Any], *, resume: bool) -> None:
    """Takes the folder for this search, unless another one has it."""
    if not folder.exists(PLAN):
        folder.write_json(PLAN, plan)
        return
    if not resume:
        raise UserError(f"{folder.uri} holds a search already; give another name, or resume it")
    there = folder.read_json(PLAN)
    other = sorted(key for key in plan.keys() | there.keys() if plan.get(key) != there.get(key))
    if other:
        raise UserError(
            f"{folder.uri} holds a search with another {', '.join(other)}; give another name"
        )


def _result(grid: tune.ResultGrid, fusion: FusionSettings) -> SearchResult:
    found: list[Any] = [grid[index] for index in range(len(grid))]
    results = sorted(found, key=lambda result: result.config["point"])
    rows = [_row(result) for result in results]
    scored = [row for row in rows if row["score"] is not None]
    if not scored:
        raise UserError(f"no point of the search could be finished: {grid.errors[:1]}")
    best = max(scored, key=lambda row: rank(row, fusion))
    curves = {row["trial"]: _curve(result) for row, result in zip(rows, results, strict=True)}
    return SearchResult(best["lambda2"], best["lambda3"], best["score"], rows, curves)


def _row(result: Any) -> dict[str, Any]:
    metrics = result.metrics or {}
    state = "failed" if result.error else "finished" if metrics.get("finished") else "stopped"
    return {
        "trial": _name(result.config),
        "lambda2": float(result.config.get("lambda2", 0.0)),
        "lambda3": float(result.config.get("lambda3", 0.0)),
        "score": metrics.get("best_score"),
        "held_out_loss": metrics.get("best_loss"),
        "zero_rows": metrics.get("best_zero_rows"),
        "zero_entries": metrics.get("best_zero_entries"),
        "epoch": metrics.get("best_epoch"),
        "epochs": metrics.get("epoch"),
        "state": state,
        "seconds": metrics.get("time_total_s"),
    }


def _curve(result: Any) -> list[dict[str, float]]:
    table = result.metrics_dataframe
    if table is None:
        return []
    # A point whose worker was lost reported its first epochs twice.
    table = table.drop_duplicates("epoch", keep="last")
    return table[[name for name in CURVES if name in table]].astype(float).to_dict("records")


@contextmanager
def _tune_environment() -> Iterator[None]:
    """Sets what Tune and Optuna read from the process only, and puts it back afterwards."""
    added = [name for name in TUNE_ENVIRONMENT if name not in os.environ]
    os.environ.update({name: TUNE_ENVIRONMENT[name] for name in added})
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # A point that starts again after a crash reports its first epochs once more.
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
        for name in added:
            del os.environ[name]

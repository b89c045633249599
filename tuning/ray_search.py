"""Search for the fusion network's lambda2 and lambda3 by Ray Tune over `tuning.fusion_search`."""

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
    # Seconds between two snapshots of the search, whose points take seconds, not hours.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    # The new console output prints a banner even with verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
}
WORKER_RESTARTS = 3
"""Number of lost workers after which a point fails."""


@dataclass(frozen=True)
class SearchResult:
    """Result of a search."""

    lambda2: float
    """lambda2 of the best point by `trainers.fusion.training.rank`: highest score, then smallest
    held-out squared error; with ``fusion.keep="loss"`` smallest held-out squared error."""
    lambda3: float
    """lambda3 of the best point."""
    score: float
    """Accuracy (multi-label: mAP) of the best point over all clips, each held out once."""
    trials: list[dict[str, Any]]
    """One row per point: trial, lambda2, lambda3, score, held_out_loss, zero_rows, zero_entries
    (of its best epoch), epoch, epochs, state (finished, stopped or failed), seconds."""
    curves: dict[str, list[dict[str, float]]]
    """Trial -> its reports in order, with the measures in `CURVES`."""


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

    Optuna's TPE proposes the points, the first of which is (0, 0); ASHA stops bad ones early. Tune
    keeps its state, and TensorBoard curves of every point, in the folder ``name`` of ``storage``.
    After a crash the same call continues there: finished points are kept, others start again.

    By default one point per free CPU, except one, is evaluated at a time. With several points the
    result also depends on the order in which they finish, because TPE and ASHA use the results
    known so far. With ``settings.concurrent=1`` the result depends on ``seed`` only.

    Args:
        table: the training clips; no group is split between two folds.
        settings: settings of the search, with at least one trial.
        fusion: settings of the network whose lambdas are searched.
        storage: storage of the search's folder.
        name: name of the folder.
        seed: seed of points, folds, weights and order of the clips.
        progress: called with the number of finished points, of all points, and the measures of the
            best one.
        resume: whether a search in the folder is continued, or returned if it is finished. If not,
            the folder must not hold a search.

    Raises:
        UserError: the cluster has too few CPUs or GPUs for one point; the folder holds a search
            with other settings, or any search and ``resume`` is off; all clips are of one group;
            or every point failed.
        ValueError: ``settings.trials`` is 0.
    """
    if not settings.trials:
        raise ValueError("search.trials is 0: use the fusion's own lambda2 and lambda3 instead")
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
    """Cross-validates one point in a worker of Tune and reports every few epochs.

    Args:
        config: the point: lambda2 and lambda3, each 0 if missing.
        table: the training clips.
        settings: settings of the search.
        fusion: settings of the network.
        seed: seed of folds, weights and order of the clips.
    """
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
    """Draws a point of Optuna's `trial`: first (0, 0), then one lambda or both, log-uniform."""
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
        max_t=fusion.max_epochs
        + 1,  # so that a point that runs all its epochs does not count as stopped
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
            # A point that loses its worker starts again; a point that raises an error fails.
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
    """Number of points that fit on the free CPUs, except one CPU for Ray Data's tasks."""
    for kind, needed in (("CPU", settings.cpus_per_trial), ("GPU", settings.gpus_per_trial)):
        there = ray.cluster_resources().get(kind, 0.0)
        if needed > there:
            raise UserError(
                f"one point of the search needs {needed:g} {kind}s and the cluster has {there:g}; "
                f"lower search.{kind.lower()}s_per_trial"
            )
    if settings.concurrent is not None:
        return settings.concurrent
    free = ray.available_resources().get("CPU", 0.0) - 1
    return max(1, math.floor(free / settings.cpus_per_trial))


def _claim(folder: Storage, plan: dict[str, Any], *, resume: bool) -> None:
    """Claims the folder for this search; raises UserError if it holds another one."""
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
        raise UserError(f"every point of the search failed; the first error is {grid.errors[:1]}")
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
    # A point that lost its worker reported its first epochs twice.
    table = table.drop_duplicates("epoch", keep="last")
    return table[[name for name in CURVES if name in table]].astype(float).to_dict("records")


@contextmanager
def _tune_environment() -> Iterator[None]:
    """Context with the settings of Tune and Optuna that are global to the process."""
    added = [name for name in TUNE_ENVIRONMENT if name not in os.environ]
    os.environ.update({name: TUNE_ENVIRONMENT[name] for name in added})
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # A point that starts again after a crash repeats the reports of its first epochs.
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
        for name in added:
            del os.environ[name]

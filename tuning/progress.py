"""Progress of a search, from callbacks of Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune

from trainers.fusion.training import rank
from trainers.settings import FusionSettings

OnTrials = Callable[[int, int, dict[str, float]], None]
"""Called with the number of finished points, of all points, and the measures of the best one."""

_listeners: dict[str, OnTrials] = {}
"""URI of a search's folder -> listener. Tune pickles its callbacks into the folder and restores
them from there, so a callback holds only the URI and looks the listener up here."""


@contextmanager
def listening(uri: str, progress: OnTrials | None) -> Iterator[None]:
    """Context in which the `Listener` of the folder ``uri`` calls ``progress``."""
    if progress is not None:
        _listeners[uri] = progress
    try:
        yield
    finally:
        _listeners.pop(uri, None)


class Listener(tune.Callback):
    """Reports the number of finished points and the measures of the best one.

    Args:
        uri: URI of the search's folder.
        total: number of points.
        fusion: settings that determine the best point; see `trainers.fusion.training.rank`.
    """

    def __init__(self, uri: str, total: int, fusion: FusionSettings) -> None:
        self.uri, self.total, self.fusion = uri, total, fusion

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Reports progress; Tune calls it just before it marks the point as finished."""
        report = _listeners.get(self.uri)
        done = [one for one in trials if one.is_finished() or one.trial_id == trial.trial_id]
        results = [one.last_result for one in done if "best_score" in (one.last_result or {})]
        if report is None or not results:
            return
        best = max(results, key=self._rank)
        config = best.get("config", {})
        measures = {name: config.get(name, 0.0) for name in ("lambda2", "lambda3")}
        report(len(done), self.total, {"score": best["best_score"], **measures})

    def _rank(self, result: dict[str, Any]) -> tuple[float, float]:
        measures = {"score": result["best_score"], "held_out_loss": result["best_loss"]}
        return rank(measures, self.fusion)

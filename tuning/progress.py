"""Progress of a search, out of Tune's callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune

from trainers.fusion.training import rank
from trainers.settings import FusionSettings

OnTrials = Callable[[int, int, dict[str, float]], None]
"""Called with the points done, those in all, and the best one's measures."""

_listeners: dict[str, OnTrials] = {}
"""Folder -> listener. Tune pickles its callbacks into the folder and takes them from there when it
goes on, so a callback holds only the folder's name and finds the listener here."""


@contextmanager
def listening(uri: str, progress: OnTrials | None) -> Iterator[None]:
    """While it lasts, the `Listener` of a folder calls ``progress``."""
    if progress is not None:
        _listeners[uri] = progress
    try:
        yield
    finally:
        _listeners.pop(uri, None)


class Listener(tune.Callback):
    """Reports how many points are done, and the best one's measures so far.

    Args:
        uri: of the search's folder.
        total: number of points.
        fusion: settings that say which point is best.
    """

    def __init__(self, uri: str, total: int, fusion: FusionSettings) -> None:
        self.uri, self.total, self.fusion = uri, total, fusion

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Called by Tune just before it marks the point as done."""
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

"""Neural networks on clip features: the fusion network as an estimator, NN-EF and its single nets.

NN-EF is a four-layer network (input, two hidden layers, classes) on the concatenated features,
NN-LF the mean of such networks, one per feature (`method.LateFusion`). Both are the fusion network
with one input, so that depth, loss and training are those of what they are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trainers.fit.folds import group_folds
from trainers.fusion.method import Floats, Method, Standardizer
from trainers.fusion.training import fit_folds, fit_fusion, rank
from trainers.settings import FusionSettings
from trainers.table import Table


class FusionMethod(Method):
    """The regularized fusion network (Hybrid paper, section III-C) as an estimator.

    Args:
        grid: settings to choose from by cross-validation; a single one is taken as it is.
        validation: clips that train nothing and say when to stop; without them the number of
            epochs is that of the cross-validation.
    """

    absence = "a learned vector stands in for the stream"
    searched: tuple[str, ...] = ("lambda1", "lambda2", "lambda3")
    """Settings that are noted in ``chosen``."""

    def __init__(
        self,
        grid: Sequence[FusionSettings] = (FusionSettings(),),
        *,
        validation: Table | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.grid, self.validation = tuple(grid), validation

    def _fit(self, clips: Table) -> None:
        self._prepare(clips)
        held = self._validation()
        settings = self.grid[0]
        if len(self.grid) > 1 or held is None:
            settings = self._cross_validated(clips, stop=held is None)
        self.chosen |= {name: getattr(settings, name) for name in self.searched}
        self.network = fit_fusion(self._inputs(clips), settings, seed=self.seed, validation=held)

    def _cross_validated(self, clips: Table, *, stop: bool) -> FusionSettings:
        """The settings of the best rank; with ``stop`` they end at their best epoch."""
        parts = group_folds(clips.groups, self.folds, targets=clips.targets, seed=self.seed)
        table = self._inputs(clips)
        best: tuple[tuple[float, float], FusionSettings] | None = None
        for settings in self.grid:
            fit = fit_folds(
                table,
                [train for train, _ in parts],
                settings,
                seed=self.seed,
                held_out=(table, [held for _, held in parts]),
            )
            ranked = rank(fit.best, settings)
            if best is None or ranked > best[0]:
                epochs = int(fit.best["epoch"]) if stop else settings.max_epochs
                best = ranked, replace(settings, max_epochs=epochs)
                self.chosen |= {"cross_validated": fit.best["score"], "epochs": epochs}
        assert best is not None
        return best[1]

    def _validation(self) -> Table | None:
        if self.validation is None:
            return None
        clips = self._used(self.validation)
        clips = clips.part(np.flatnonzero(clips.there.any(1)))
        return self._inputs(clips) if len(clips) else None

    def _scores(self, clips: Table) -> Floats:
        table = self._inputs(clips)
        scores = self.network.scores(table.features, table.present).astype(np.float64)
        return scores if self.multi_label else scores / scores.sum(1, keepdims=True)

    def _prepare(self, clips: Table) -> None:
        """Whatever has to be known of the training clips before `_inputs`."""

    def _inputs(self, clips: Table) -> Table:
        """The clips as the network takes them."""
        return clips


class EarlyFusionNetwork(FusionMethod):
    """NN-EF: one network on the concatenation of the standardized features."""

    absence = "its features are at their training mean"
    searched = ("lambda1",)

    def _prepare(self, clips: Table) -> None:
        self.standardize = Standardizer(clips)

    def _inputs(self, clips: Table) -> Table:
        joined = np.concatenate(list(self.standardize(clips).values()), axis=1)
        everywhere = np.ones(len(clips), bool)
        return replace(clips, features={"all": joined}, present={"all": everywhere})

"""What all compared methods share: a table of clips that lack streams, and chosen constants."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainers.fit.folds import Fold, group_folds
from trainers.refinement.score_streams import log_loss, main_measure, to_logits
from trainers.table import Table

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
T = TypeVar("T")


class Method(ABC):
    """An estimator over clips of several streams.

    A clip that has none of the method's streams trains nothing and scores the classes' shares of
    the training clips. ``absence`` says how a method deals with a clip that has some of them.

    Args:
        streams: which features are used; default: all that `fit` is given.
        folds: of the inner cross-validation.
        seed: of folds, weights and orders.
    """

    absence = ""
    """What becomes of a clip that lacks one of several streams, in a few words."""

    def __init__(
        self, *, streams: Sequence[str] | None = None, folds: int = 3, seed: int = 0
    ) -> None:
        self.streams = None if streams is None else tuple(streams)
        self.folds, self.seed = folds, seed
        self.multi_label = False
        self.chosen: dict[str, Any] = {}
        self.prior: Floats = np.zeros(0)

    def fit(self, table: Table) -> Self:
        """Chooses the constants by cross-validation by group and fits all clips.

        Raises:
            ValueError: no clip or no class; single-label clips without a label; a stream that the
                table or all its clips lack.
            UserError: all clips are of one group, so that nothing can be held out.
        """
        clips = self._used(table)
        if not len(clips) or not clips.targets.n_classes:
            raise ValueError(
                f"{len(clips)} clips of {clips.targets.n_classes} classes: none to fit"
            )
        if not table.multi_label:
            table.targets.classes()
        empty = [name for name, there in clips.present.items() if not there.any()]
        if empty:
            raise ValueError(f"no training clip has the stream {empty[0]!r}: leave it out")
        self.multi_label = table.multi_label
        self.prior = table.targets.shares()
        self.chosen = {}
        self._fit(clips.part(np.flatnonzero(clips.there.any(1))))
        return self

    def predict_scores(self, table: Table) -> Floats:
        """(N, C) probabilities: a row sums to 1, or of multi-label clips each stands by itself.

        Raises:
            ValueError: `fit` was not called, or a stream is missing.
        """
        if not self.prior.size:
            raise ValueError("fit comes before predict_scores")
        clips = self._used(table)
        scores = np.repeat(self.prior[None], len(clips), 0)
        rows = np.flatnonzero(clips.there.any(1))
        if rows.size:
            scores[rows] = self._scores(clips.part(rows))
        return scores

    def _used(self, table: Table) -> Table:
        """The method's streams in double precision."""
        return table.select(table.names if self.streams is None else self.streams).astype(
            np.float64
        )

    @abstractmethod
    def _fit(self, clips: Table) -> None:
        """Fits clips of which each has a stream."""

    @abstractmethod
    def _scores(self, clips: Table) -> Floats:
        """(N, C) probabilities of clips of which each has a stream."""

    def _choose(
        self,
        clips: Table,
        grid: Sequence[T],
        held_out: Callable[[T, list[Fold]], Floats],
        *,
        calibrate: Callable[[Floats], Floats] = lambda scores: scores,
    ) -> tuple[T, Floats | None]:
        """The grid's value of the least held-out log loss, and its held-out scores.

        The log loss, and not the accuracy, because it is steady on few clips, and shows how far
        the scores can be trusted beside those of other streams.

        Args:
            grid: of one value, which is then taken as it is; or of several.
            held_out: (N, C) scores, each clip's from the fold that holds it out.
            calibrate: makes probabilities of them.
        """
        if len(grid) == 1:
            return grid[0], None
        parts = group_folds(clips.groups, self.folds, targets=clips.targets, seed=self.seed)
        found = [held_out(value, parts) for value in grid]
        several, truth = self.multi_label, clips.targets.dense(bool)
        losses = [
            log_loss(to_logits(calibrate(s), multi_label=several), truth, multi_label=several)
            for s in found
        ]
        best = int(np.argmin(losses))
        self.chosen["cross_validated"] = main_measure(found[best], truth, multi_label=several)
        return grid[best], found[best]


class LateFusion(Method):
    """One method per stream, the plain mean of their scores.

    A clip's mean is over the streams that it has.

    Args:
        make: stream -> the method for it.
    """

    absence = "the mean is over the streams that the clip has"

    def __init__(self, make: Callable[[str], Method], **options: Any) -> None:
        super().__init__(**options)
        self.make = make
        self.single: dict[str, Method] = {}

    def _fit(self, clips: Table) -> None:
        for name in clips.names:
            self.single[name] = self.make(name).fit(clips)
            self.chosen |= {f"{name}.{key}": v for key, v in self.single[name].chosen.items()}

    def _scores(self, clips: Table) -> Floats:
        weights = clips.there / clips.there.sum(1, keepdims=True)
        scores = [method.predict_scores(clips) for method in self.single.values()]
        return np.einsum("ns,snc->nc", weights, np.stack(scores))


class Standardizer:
    """Features at mean 0 and variance 1 over the training clips that have the stream.

    An absent stream is zero, its mean. A feature that never varies is only centered; a stream that
    no training clip has (of an inner fold, say) is zero for all.
    """

    def __init__(self, clips: Table) -> None:
        self.mean, self.scale = {}, {}
        for name, values in clips.features.items():
            known = values[clips.present[name]]
            if not len(known):
                self.mean[name] = self.scale[name] = np.zeros(values.shape[1])
                continue
            spread = known.std(0)
            self.mean[name] = known.mean(0)
            self.scale[name] = 1 / np.where(spread > 1e-6, spread, 1.0)

    def __call__(self, clips: Table) -> dict[str, Floats]:
        """stream -> (N, D)."""
        return {
            name: np.where(
                clips.present[name][:, None], (values - self.mean[name]) * self.scale[name], 0.0
            )
            for name, values in clips.features.items()
        }

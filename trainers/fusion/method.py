"""What all compared methods share: checked arrays, clips that lack streams, chosen constants."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainers.fit.folds import Fold, group_folds
from trainers.refinement.score_streams import log_loss, main_measure, to_logits

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Clips:
    """N clips; `Clips.of` checks them."""

    features: Mapping[str, Floats]
    """stream -> (N, D), zero where absent."""
    present: Mapping[str, Bools]
    """stream -> (N,)."""
    targets: Floats
    """(N, C) of 0 and 1; of clips to be scored (N, 0)."""
    groups: NDArray[Any]
    """(N,) names."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.features)

    @property
    def there(self) -> Bools:
        """(N, S) presence, streams in order."""
        return np.stack([self.present[name] for name in self.features], axis=1)

    def part(self, rows: NDArray[Any]) -> Clips:
        """Some clips, by index or mask."""
        return Clips(
            {name: values[rows] for name, values in self.features.items()},
            {name: values[rows] for name, values in self.present.items()},
            self.targets[rows],
            self.groups[rows],
        )

    @classmethod
    def of(
        cls,
        features: Mapping[str, ArrayLike],
        present: Mapping[str, ArrayLike],
        targets: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        *,
        streams: Sequence[str] | None = None,
    ) -> Clips:
        """Checks arrays that come from outside; see the package for their shapes.

        Args:
            streams: those that are looked at; all by default.

        Raises:
            ValueError: arrays that don't fit each other, features that are not finite, targets
                other than 0 and 1.
        """
        names = tuple(features) if streams is None else tuple(streams)
        missing = [name for name in names if name not in features or name not in present]
        if missing or not names:
            raise ValueError(f"no features or presence of {missing or 'any stream'}")
        there = {name: np.asarray(present[name]).astype(bool) for name in names}
        count = len(there[names[0]])
        held = {}
        for name in names:
            values = np.asarray(features[name], np.float64)
            if values.ndim != 2 or len(values) != count or there[name].shape != (count,):
                raise ValueError(
                    f"{name!r}: features {values.shape} and presence {there[name].shape} must be "
                    f"({count}, D) and ({count},)"
                )
            if not np.isfinite(values[there[name]]).all():
                raise ValueError(f"features of {name!r} hold NaN or infinity")
            held[name] = np.where(there[name][:, None], values, 0.0)
        wanted = np.zeros((count, 0)) if targets is None else np.asarray(targets, np.float64)
        if wanted.ndim != 2 or len(wanted) != count or not np.isin(wanted, (0, 1)).all():
            raise ValueError(f"targets must be ({count}, C) of 0 and 1, got {wanted.shape}")
        names_of = np.arange(count) if groups is None else np.asarray(groups)
        if names_of.shape != (count,):
            raise ValueError(f"groups must be ({count},), got {names_of.shape}")
        return cls(held, there, wanted, names_of)


class Method(ABC):
    """An estimator over clips of several streams.

    A clip that has none of the method's streams trains nothing and scores the classes' shares of
    the training clips. How a method deals with a clip that has some of them is told in ``absence``.

    Args:
        streams: what it looks at; default: all streams that `fit` is given.
        multi_label: classes are judged one by one.
        folds: of the inner cross-validation.
        seed: of folds, weights and orders.
    """

    absence = ""
    """What becomes of a clip that lacks one of several streams, in a few words."""

    def __init__(
        self,
        *,
        streams: Sequence[str] | None = None,
        multi_label: bool = False,
        folds: int = 3,
        seed: int = 0,
    ) -> None:
        self.streams = None if streams is None else tuple(streams)
        self.multi_label, self.folds, self.seed = multi_label, folds, seed
        self.chosen: dict[str, Any] = {}
        self.prior: Floats = np.zeros(0)

    def fit(
        self,
        features: Mapping[str, ArrayLike],
        present: Mapping[str, ArrayLike],
        targets: ArrayLike,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Chooses the constants by cross-validation and fits all clips; see the package.

        Raises:
            ValueError: arrays that don't fit; single-label targets that are not one-hot; a stream
                that no clip has.
            UserError: all clips are of one group, so that nothing can be held out.
        """
        clips = Clips.of(features, present, targets, groups, streams=self.streams)
        if not len(clips) or not clips.targets.shape[1]:
            raise ValueError(f"targets {clips.targets.shape} name no clip or no class")
        if not self.multi_label and not (clips.targets.sum(1) == 1).all():
            raise ValueError("clips without exactly one label; pass multi_label=True")
        empty = [name for name, there in clips.present.items() if not there.any()]
        if empty:
            raise ValueError(f"no training clip has the stream {empty[0]!r}: leave it out")
        self.prior = clips.targets.mean(0)
        self.chosen = {}
        self._fit(clips.part(np.flatnonzero(clips.there.any(1))))
        return self

    def predict_scores(
        self, features: Mapping[str, ArrayLike], present: Mapping[str, ArrayLike]
    ) -> Floats:
        """(N, C) probabilities: a row sums to 1, or with ``multi_label`` each stands by itself."""
        if not self.prior.size:
            raise ValueError("fit comes before predict_scores")
        clips = Clips.of(features, present, streams=self.streams)
        scores = np.repeat(self.prior[None], len(clips), 0)
        rows = np.flatnonzero(clips.there.any(1))
        if rows.size:
            scores[rows] = self._scores(clips.part(rows))
        return scores

    @abstractmethod
    def _fit(self, clips: Clips) -> None:
        """Fits clips of which each has a stream."""

    @abstractmethod
    def _scores(self, clips: Clips) -> Floats:
        """(N, C) probabilities of clips of which each has a stream."""

    def _choose(
        self,
        clips: Clips,
        grid: Sequence[T],
        held_out: Callable[[T, list[Fold]], Floats],
        *,
        calibrate: Callable[[Floats], Floats] = lambda scores: scores,
    ) -> tuple[T, Floats | None]:
        """The grid's value of the least held-out log loss, and its held-out scores.

        The log loss, and not the accuracy, because it is steady on few clips, and tells how far
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
        several, truth = self.multi_label, clips.targets.astype(bool)
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

    def _fit(self, clips: Clips) -> None:
        for name in clips.streams:
            self.single[name] = self.make(name).fit(
                clips.features, clips.present, clips.targets, clips.groups
            )
            self.chosen |= {f"{name}.{key}": v for key, v in self.single[name].chosen.items()}

    def _scores(self, clips: Clips) -> Floats:
        weights = clips.there / clips.there.sum(1, keepdims=True)
        scores = [
            method.predict_scores(clips.features, clips.present) for method in self.single.values()
        ]
        return np.einsum("ns,snc->nc", weights, np.stack(scores))


class Standardizer:
    """Features at mean 0 and variance 1 over the training clips that have the stream.

    An absent stream is zero, its mean. A feature that never varies is only centered; a stream that
    no training clip has (of an inner fold, say) is zero for all.
    """

    def __init__(self, clips: Clips) -> None:
        self.mean, self.scale = {}, {}
        for name, values in clips.features.items():
            known = values[clips.present[name]]
            if not len(known):
                self.mean[name] = self.scale[name] = np.zeros(values.shape[1])
                continue
            spread = known.std(0)
            self.mean[name] = known.mean(0)
            self.scale[name] = 1 / np.where(spread > 1e-6, spread, 1.0)

    def __call__(self, clips: Clips) -> dict[str, Floats]:
        """stream -> (N, D)."""
        return {
            name: np.where(
                clips.present[name][:, None], (values - self.mean[name]) * self.scale[name], 0.0
            )
            for name, values in clips.features.items()
        }

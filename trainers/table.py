"""A table of clips: what fusion, ensemble, refinement, comparison and the search work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from trainers.targets import Index, Targets, shown

__all__ = ["Table"]


@dataclass(frozen=True, eq=False)
class Table:
    """N clips, in one order; `Table.of` makes one of unchecked arrays.

    A feature is whatever has one vector for each clip: a stream's mean embedding (N, D), or a
    system's scores (N, C). Clips may lack any of them.

    Args:
        features: name -> (N, D) floating point, zero where absent.
        present: name -> (N,) bool, of the same names.
        targets: of the N clips.
        groups: (N,) str or int; no group is ever split between two folds.
        splits: (N,) str, ``train``, ``val`` or ``test``; empty strings where there are none.
        ids: (N,) str.

    Raises:
        ValueError: columns of different lengths or names.
    """

    features: Mapping[str, NDArray[Any]]
    present: Mapping[str, NDArray[np.bool_]]
    targets: Targets
    groups: NDArray[Any]
    splits: NDArray[np.str_]
    ids: NDArray[np.str_]

    def __post_init__(self) -> None:
        n = len(self.targets)
        if list(self.features) != list(self.present):
            raise ValueError(f"features of {[*self.features]}, presence of {[*self.present]}")
        for name, values in self.features.items():
            there = self.present[name]
            if values.ndim != 2 or len(values) != n or there.shape != (n,):
                raise ValueError(
                    f"features of {name!r} must be ({n}, D) with presence ({n},), got "
                    f"{values.shape} and {there.shape}"
                )
        for name in ("groups", "splits", "ids"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must be ({n},), got {getattr(self, name).shape}")

    @classmethod
    def of(
        cls,
        features: Mapping[str, ArrayLike],
        present: Mapping[str, ArrayLike] | None = None,
        targets: Targets | None = None,
        *,
        groups: ArrayLike | None = None,
        splits: ArrayLike | None = None,
        ids: ArrayLike | None = None,
    ) -> Table:
        """Checks arrays and makes a table of them.

        Args:
            features: name -> (N, D) numbers, at least one; rows of absent clips may hold anything.
                Floating point keeps its type, other numbers become float64.
            present: name -> (N,) truth values; default: every clip has everything.
            targets: default: no label is known.
            groups: default: every clip is a group of its own.
            splits: default: empty strings.
            ids: default: the numbers of the rows.

        Raises:
            ValueError: no features, columns that do not fit each other, or values that are not
                finite where a clip is present.
        """
        if not features:
            raise ValueError("a table needs at least one stream of features")
        arrays = {name: _floating(values) for name, values in features.items()}
        n = len(next(iter(arrays.values())))
        if present is None:
            present = {name: np.ones(len(values), bool) for name, values in arrays.items()}
        missing = [name for name in arrays if name not in present]
        if missing:
            raise ValueError(f"no presence of {missing}; give it for each of {list(arrays)}")
        there = {name: np.asarray(present[name]).astype(bool) for name in arrays}
        return cls(
            {name: _zeroed(name, values, there[name]) for name, values in arrays.items()},
            there,
            Targets.unlabeled(n) if targets is None else targets,
            np.arange(n) if groups is None else np.asarray(groups),
            np.full(n, "") if splits is None else np.asarray(splits).astype(str),
            np.arange(n).astype(str) if ids is None else np.asarray(ids).astype(str),
        )

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(self.features)

    @property
    def widths(self) -> dict[str, int]:
        """Name -> D."""
        return {name: values.shape[1] for name, values in self.features.items()}

    @property
    def there(self) -> NDArray[np.bool_]:
        """(N, S) presence, features in order."""
        return np.stack(list(self.present.values()), axis=1)

    @property
    def multi_label(self) -> bool:
        """Whether a clip may have several classes."""
        return self.targets.multi_label

    def rows(self, split: str) -> NDArray[np.intp]:
        """Row numbers of a split's clips, in order."""
        return np.flatnonzero(self.splits == split)

    def part(self, rows: Index) -> Table:
        """Some clips, by indices, mask or slice, in the order given."""
        return Table(
            {name: values[rows] for name, values in self.features.items()},
            {name: values[rows] for name, values in self.present.items()},
            self.targets[rows],
            self.groups[rows],
            self.splits[rows],
            self.ids[rows],
        )

    def select(self, names: Iterable[str]) -> Table:
        """The same clips with some of the features only, in the order given.

        Raises:
            ValueError: a name that the table does not have.
        """
        wanted = list(names)
        missing = [name for name in wanted if name not in self.features]
        if missing:
            raise ValueError(f"no features of {missing}; there are {list(self.features)}")
        return replace(
            self,
            features={name: self.features[name] for name in wanted},
            present={name: self.present[name] for name in wanted},
        )

    def with_feature(
        self, name: str, values: NDArray[Any], present: NDArray[np.bool_] | None = None
    ) -> Table:
        """The same clips with one feature more, or with another one of that name.

        Args:
            values: (N, D), zero where absent.
            present: (N,); default: every clip has it.
        """
        there = np.ones(len(self), bool) if present is None else present
        return replace(
            self,
            features={**self.features, name: values},
            present={**self.present, name: there},
        )

    def astype(self, dtype: DTypeLike) -> Table:
        """The same clips with features of another floating point type."""
        converted = {name: v.astype(dtype, copy=False) for name, v in self.features.items()}
        return replace(self, features=converted)

    def check_everywhere(self) -> None:
        """Raises ValueError where a clip has none of the features."""
        nowhere = np.flatnonzero(~self.there.any(1))
        if len(nowhere):
            raise ValueError(f"clips at rows {shown(nowhere)} have none of {list(self.features)}")


def _floating(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _zeroed(name: str, values: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[Any]:
    """The features, zero where absent; shapes that do not fit are left to the table."""
    if values.ndim != 2 or present.shape != (len(values),):
        return values
    wrong = np.flatnonzero(present & ~np.isfinite(values).all(1))
    if len(wrong):
        raise ValueError(f"features of {name!r} hold NaN or infinity in rows {shown(wrong)}")
    if present.all():
        return values
    return np.where(present[:, None], values, values.dtype.type(0))

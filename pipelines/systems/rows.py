"""What a system says of the tables that compare it with other methods.

A system that has tables names two modules in `pipelines.systems.SYSTEMS`. ``rows``, quick to
import, has

- ``Members``, whose ``of(settings)`` says what the system's settings make the rows of;
- ``row_names(members)``, the names of all rows;
- ``TABLES``, the `Tables`.

``tables`` has

- ``rows(members)``, the same rows as `TableRow`;
- ``row_settings(settings, work)``, what the rows depend on of the system's settings; ``work`` has
  the results of its steps;
- ``compute_row(name, members, inputs)``, a row's scores of the test clips, what it chose, seconds.

Light: a command line is checked by them before what the rows need is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainers.evaluation import SystemScores
    from trainers.table import Table


@dataclass(frozen=True)
class PrecisionFigure:
    """Every class's average precision before and after something is done to the reference's scores.

    Args:
        number: of the figure in the paper.
        after: row of the scores after it.
        what: what is done, such as ``contextual refinement``.
    """

    number: int
    after: str
    what: str


@dataclass(frozen=True)
class Tables:
    """What a system's tables are about.

    Args:
        titles: number of a table -> its title.
        reference: row that every other is tested against, and which is always computed.
        noun: what texts call the reference after "the", such as ``hybrid``.
        figure: None: there is none.
    """

    titles: Mapping[int, str]
    reference: str
    noun: str
    figure: PrecisionFigure | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What a command line calls the tables, such as ``table1``."""
        return tuple(f"table{number}" for number in self.titles)


@dataclass(frozen=True, eq=False)
class RowInputs:
    """What the rows of one split are computed from."""

    table: Table
    """All clips; features are the streams' mean embeddings."""
    systems: Mapping[str, SystemScores]
    """Row of the report -> its scores of all clips."""
    settings: Any
    """Of the system, as far as rows depend on them; part of each row's fingerprint."""
    seed: int
    notes: Mapping[str, str] = field(default_factory=dict)
    """Refinement -> note on its fit."""

    def part(self, split: str) -> Table:
        """One split's clips."""
        return self.table.part(self.table.rows(split))

    @property
    def validation(self) -> Table | None:
        """The validation clips; None where there are none."""
        return self.part("val") if len(self.table.rows("val")) else None


@dataclass(frozen=True, eq=False)
class RowResult:
    """A row's (N, C) scores of the test clips, and what it chose for itself."""

    scores: NDArray[np.float64]
    chosen: Mapping[str, Any]


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    name: str
    label: str
    table: int
    absence: str
    """How a clip that lacks a stream takes part."""
    compute: Callable[[RowInputs], RowResult]
    settings: Any = None
    """What else the result depends on."""
    published: tuple[float | None, float | None] = (None, None)
    """The paper's own figures: accuracy on UCF-101, mAP on CCV."""

"""Scores of more videos than memory holds, kept in a temporary file until they are ranked.

The file has no name (or loses it when closed), holds bare arrays and nothing pickled, and is gone
with the object that made it: at `close`, at the end of a ``with``, when the object is collected or
its process ends.
"""

from __future__ import annotations

import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MEMORY = 1 << 23
"""Bytes of scores that are held before they go to the file."""


class Spill:
    """A temporary file of arrays, made when the first one is written.

    Args:
        memory: bytes to be held outside of it.
        folder: of the file; default: the system's for temporary files (``TMPDIR``). Where that is
            itself memory, name one on a disk.
    """

    def __init__(self, memory: int = MEMORY, folder: str | Path | None = None) -> None:
        if memory < 1:
            raise ValueError(f"memory must be at least 1 byte, got {memory!r}")
        self.memory, self.folder = memory, folder
        self._file: IO[bytes] | None = None
        self._closed = ""
        """Why nothing can be added or read any more."""

    def write(self, *arrays: NDArray[Any]) -> int:
        """Appends the arrays' bytes one after another; where the first begins."""
        self.check_open()
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  closed below
            self._finalize = weakref.finalize(self, self._file.close)
        try:
            start = self._file.seek(0, 2)
            for array in arrays:
                self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()  # a full disk is to show here, not when they are read
        except OSError as error:
            place = self.folder or tempfile.gettempdir()
            raise OSError(
                error.errno, f"{error.strerror}: scores in {place}; give a folder with more room"
            ) from error
        return start

    def read(self, start: int, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """`count` numbers from byte `start` on."""
        self.check_open()
        assert self._file is not None
        self._file.seek(start)
        return np.frombuffer(self._file.read(count * np.dtype(dtype).itemsize), dtype, count)

    def check_open(self) -> None:
        """ValueError after `close`."""
        if self._closed:
            raise ValueError(self._closed)

    def close(self, why: str = "the scores were let go by close") -> None:
        """Deletes the file; later calls raise an error that gives ``why`` as the reason."""
        self._closed = self._closed or why
        if self._file is not None:
            self._finalize()

    def __getstate__(self) -> dict[str, Any]:
        if self._file is not None:
            raise TypeError(
                "scores in a temporary file stay in their process: compute or merge them there"
            )
        return self.__dict__


class Kept(ABC):
    """What both ways to keep scores have: a buffer, and a file behind it."""

    def __init__(self, memory: int = MEMORY, folder: str | Path | None = None) -> None:
        self.spill = Spill(memory, folder)
        self.entries = 0
        self._waiting: list[tuple[NDArray[Any], ...]] = []
        self._waiting_bytes = 0

    def _add(self, *arrays: NDArray[Any]) -> None:
        self.spill.check_open()
        self._waiting.append(tuple(array.copy() for array in arrays))
        self._waiting_bytes += sum(array.nbytes for array in arrays)
        self.entries += len(arrays[0])
        if self._waiting_bytes <= self.spill.memory:
            return
        try:
            self._flush(self._joined())
        except BaseException as error:  # a stop by hand, too, leaves part of the scores out
            self._waiting = []
            self.spill.close(
                f"a part of the scores is lost, as they could not be kept ({error!r}); "
                "start again with an empty measure"
            )
            raise
        self._waiting, self._waiting_bytes = [], 0

    def _joined(self) -> tuple[NDArray[Any], ...]:
        """All that waits, in one piece."""
        return tuple(np.concatenate(parts) for parts in zip(*self._waiting, strict=True))

    @abstractmethod
    def _flush(self, arrays: tuple[NDArray[Any], ...]) -> None:
        """Writes what has been joined."""

    def close(self) -> None:
        """Lets the scores go."""
        self.spill.close()
        self._waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ClassScores(Kept):
    """Scores and marks of every class, read back class by class.

    The file is a row of chunks: (C + 1) int64 bounds, then the scores in the order of their
    classes, float64, then the marks, one byte each. 9 bytes per entry, and little of it in memory.

    Args:
        n_classes: C.
    """

    def __init__(
        self, n_classes: int, memory: int = MEMORY, folder: str | Path | None = None
    ) -> None:
        super().__init__(memory, folder)
        self.n_classes = n_classes
        self._chunks: list[tuple[int, int]] = []
        """Where each begins, and its number of entries."""

    def add(self, classes: NDArray[np.int32], scores: Floats, relevant: Bools) -> None:
        """(E,) each."""
        self._add(classes, scores, relevant)

    def extend(self, other: ClassScores) -> None:
        """Adds another one's entries, which stay its own too."""
        other.spill.check_open()
        for classes, scores, relevant in list(other._waiting):
            self.add(classes, scores, relevant)
        for start, count in list(other._chunks):
            bounds, scores, relevant = other._part(start, count, 0, other.n_classes)
            numbers = np.arange(other.n_classes, dtype=np.int32)
            self.add(np.repeat(numbers, np.diff(bounds)), scores, relevant)

    def columns(self) -> Iterator[tuple[int, Floats, Bools]]:
        """Class, its scores and its marks, for every class in turn.

        As many classes are read at once as `memory` holds; one at least. Nothing is written.
        """
        self.spill.check_open()
        waiting = self._sorted(self._joined()) if self._waiting else None
        width = max(1, self.spill.memory * self.n_classes // (9 * max(self.entries, 1)))
        for first in range(0, self.n_classes, width):
            last = min(first + width, self.n_classes)
            parts = [self._part(start, count, first, last) for start, count in self._chunks]
            if waiting is not None:
                parts.append((waiting[0][first : last + 1], *waiting[1:]))
            for c in range(last - first):
                cuts = [(slice(bounds[c], bounds[c + 1]), s, r) for bounds, s, r in parts]
                none: tuple[Floats, Bools] = np.zeros(0), np.zeros(0, bool)
                scores = np.concatenate([none[0], *(s[cut] for cut, s, _ in cuts)])
                relevant = np.concatenate([none[1], *(r[cut] for cut, _, r in cuts)])
                yield first + c, scores, relevant

    def _flush(self, arrays: tuple[NDArray[Any], ...]) -> None:
        bounds, scores, relevant = self._sorted(arrays)
        self._chunks.append((self.spill.write(bounds, scores, relevant), len(scores)))

    def _sorted(self, arrays: tuple[NDArray[Any], ...]) -> tuple[Ints, Floats, Bools]:
        """A chunk: (C + 1) bounds, scores and marks in the order of their classes."""
        classes, scores, relevant = arrays
        order = np.argsort(classes, kind="stable")
        bounds = np.searchsorted(classes[order], np.arange(self.n_classes + 1)).astype(np.int64)
        return bounds, scores[order], relevant[order]

    def _part(self, start: int, count: int, first: int, last: int) -> tuple[Ints, Floats, Bools]:
        """Bounds (from 0), scores and marks of classes first to last of one chunk."""
        bounds = self.spill.read(start + 8 * first, last - first + 1, np.int64)
        low, wanted = int(bounds[0]), int(bounds[-1] - bounds[0])
        scores_at = start + 8 * (self.n_classes + 1)
        scores = self.spill.read(scores_at + 8 * low, wanted, np.float64)
        relevant = self.spill.read(scores_at + 8 * count + low, wanted, np.bool_)
        return bounds - low, scores, relevant


Steps = tuple[Floats, Ints, Ints]
"""Different scores, best first; how many entries have each; how many of these are marked."""


class RankedScores(Kept):
    """Scores and marks of one pool, read back from the best to the worst.

    The file is a row of runs, each sorted, equal scores joined: scores float64, then entries and
    marked ones, int64. They are merged as they are read.
    """

    def __init__(self, memory: int = MEMORY, folder: str | Path | None = None) -> None:
        super().__init__(memory, folder)
        self._runs: list[tuple[int, int]] = []
        """Where each begins, and its number of steps."""

    def add(self, scores: Floats, relevant: Bools) -> None:
        """(E,) each."""
        self._add(scores, np.ones(len(scores), np.int64), relevant.astype(np.int64))

    def extend(self, other: RankedScores) -> None:
        """Adds another one's entries, which stay its own too."""
        other.spill.check_open()
        total = self.entries + other.entries
        for waiting in list(other._waiting):
            self._add(*waiting)
        for start, count in list(other._runs):
            for low in range(0, count, other._rows(1)):
                self._add(*other._part(start, count, low, other._rows(1)))
        self.entries = total

    def steps(self) -> Iterator[Steps]:
        """All steps, best first, in pieces; none is cut in two. Nothing is written."""
        self.spill.check_open()
        rows = self._rows(len(self._runs))
        read = [0] * len(self._runs)
        none: Steps = np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
        # The last one is the run that is still in memory.
        held = [none] * len(self._runs)
        held.append(_joined([self._joined()]) if self._waiting else none)
        while True:
            for n, (start, count) in enumerate(self._runs):
                if not len(held[n][0]) and read[n] < count:
                    held[n] = self._part(start, count, read[n], rows)
                    read[n] += len(held[n][0])
            if not any(len(scores) for scores, _, _ in held):
                return
            # What is not read of a run is worse than the worst that is read of it.
            ends = [held[n][0][-1] for n, (_, count) in enumerate(self._runs) if read[n] < count]
            worst = max(ends, default=-np.inf)
            cuts = [int(np.searchsorted(-run[0], -worst, side="right")) for run in held]
            yield _joined([_cut(run, 0, cut) for run, cut in zip(held, cuts, strict=True)])
            held = [_cut(run, cut, None) for run, cut in zip(held, cuts, strict=True)]

    def _flush(self, arrays: tuple[NDArray[Any], ...]) -> None:
        scores, seen, found = _joined([arrays])
        self._runs.append((self.spill.write(scores, seen, found), len(scores)))

    def _rows(self, runs: int) -> int:
        """Steps of each run that are held."""
        return max(64, self.spill.memory // (24 * max(runs, 1)))

    def _part(self, start: int, count: int, low: int, rows: int) -> Steps:
        rows = min(rows, count - low)
        scores, seen, found = (
            self.spill.read(start + 8 * (part * count + low), rows, kind)
            for part, kind in enumerate((np.float64, np.int64, np.int64))
        )
        return scores, seen, found


def _cut(steps: Steps, start: int, stop: int | None) -> Steps:
    scores, seen, found = steps
    return scores[start:stop], seen[start:stop], found[start:stop]


def _joined(parts: Sequence[tuple[NDArray[Any], ...]]) -> Steps:
    """Several lists of scores, entries and marks as one, best first, equal scores joined."""
    scores, seen, found = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    return (
        ranked[starts],
        np.add.reduceat(seen[order], starts),
        np.add.reduceat(found[order], starts),
    )

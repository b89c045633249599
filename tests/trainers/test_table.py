"""Sparse targets against dense ones, and tables of clips: checks, parts, columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainers.table import Table
from trainers.targets import Targets, shown

ROWS = [[2, 0], [], [1], [3, 1, 0]]
DENSE = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 1]])


def drawn(n: int = 30, classes: int = 7, seed: int = 0) -> np.ndarray:
    """(N, C) zeros and ones with clips of no label, one and several."""
    return (np.random.default_rng(seed).random((n, classes)) < 0.2).astype(int)


def test_targets_from_rows_and_from_an_array_are_the_same() -> None:
    sparse = Targets.of(ROWS, 4, multi_label=True)
    again = Targets.from_dense(DENSE.astype(bool), multi_label=True)
    assert len(sparse) == 4 and sparse.multi_label and sparse.n_classes == 4
    assert sparse.indices.dtype == np.int32 and sparse.offsets.dtype == np.int64
    np.testing.assert_array_equal(sparse.indices, [0, 2, 1, 0, 1, 3])
    np.testing.assert_array_equal(sparse.offsets, [0, 2, 2, 3, 6])
    np.testing.assert_array_equal(again.indices, sparse.indices)
    np.testing.assert_array_equal(again.offsets, sparse.offsets)
    assert sparse.dense().dtype == np.float32 and sparse.dense(bool).dtype == bool
    np.testing.assert_array_equal(sparse.dense(), DENSE)
    np.testing.assert_array_equal(sparse.truth(), DENSE.astype(bool))


def test_counts_and_shares_are_those_of_the_array() -> None:
    dense = drawn()
    sparse = Targets.from_dense(dense, multi_label=True)
    np.testing.assert_array_equal(sparse.counts, dense.sum(1))
    np.testing.assert_array_equal(sparse.class_counts, dense.sum(0))
    np.testing.assert_array_equal(sparse.shares(), dense.mean(0))
    np.testing.assert_array_equal(np.flatnonzero(dense), sparse.places())


@pytest.mark.parametrize(
    "rows",
    [
        np.array([3, 3, 0, 29]),
        np.array([], int),
        np.arange(30) % 3 == 0,
        slice(5, 12),
        slice(None, None, -1),
        np.array([-1, 2]),
    ],
    ids=["indices", "none", "mask", "slice", "reversed", "negative"],
)
def test_parts_are_those_of_the_array(rows: np.ndarray | slice) -> None:
    dense = drawn()
    part = Targets.from_dense(dense, multi_label=True)[rows]
    np.testing.assert_array_equal(part.dense(), dense[rows])
    assert part.multi_label and part.n_classes == 7 and len(part) == len(dense[rows])


def test_the_rarest_class_of_a_clip_is_found_as_in_the_array() -> None:
    dense = drawn(200, 9)
    rarity = np.where(dense, dense.sum(0), dense.size + 1)
    expected = np.where(dense.any(1), rarity.argmin(1), -1)
    np.testing.assert_array_equal(Targets.from_dense(dense, multi_label=True).rarest(), expected)
    assert Targets.unlabeled(2, 3).rarest().tolist() == [-1, -1]


def test_single_label_clips_have_one_class_or_none() -> None:
    sparse = Targets.from_classes(np.array([2, 0, 1]), 3)
    assert sparse.classes().dtype == np.int64
    np.testing.assert_array_equal(sparse.classes(), [2, 0, 1])
    np.testing.assert_array_equal(sparse.truth(), [2, 0, 1])
    np.testing.assert_array_equal(sparse.dense(), np.eye(3)[[2, 0, 1]])
    unknown = Targets.of([[0], [], []], 2)
    with pytest.raises(ValueError, match="rows 1, 2 have no label"):
        unknown.classes()
    assert len(Targets.unlabeled(3)) == 3 and Targets.unlabeled(3).dense().shape == (3, 0)


def test_memory_grows_with_the_labels() -> None:
    """A million classes of a thousand clips: the dense array would take 4 GB."""
    sparse = Targets.from_classes(np.arange(1000) * 999, 1_000_000)
    assert sparse.indices.nbytes + sparse.offsets.nbytes < 20_000
    assert sparse[np.array([7])].dense().nonzero()[1] == [7 * 999]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Targets.of([[0], [4]], 4), r"must lie in 0..3, not so in rows 1"),
        (lambda: Targets.of([[-1]], 4), r"must lie in 0..3, not so in rows 0"),
        (lambda: Targets.of([[], [2, 1, 2]], 4, multi_label=True), "twice in rows 1"),
        (lambda: Targets.of(ROWS, 4), "rows 0, 3 have several labels; pass multi_label=True"),
        (lambda: Targets.from_dense(DENSE), "rows 0, 3 have several labels"),
        (lambda: Targets.from_dense(DENSE / 2), "0 or 1, not so in rows 0, 2, 3"),
        (lambda: Targets.from_dense(DENSE[0]), r"must be \(N, C\), got \(4,\)"),
        (lambda: Targets.from_classes([0, 3], 3), "must lie in 0..2, not so in rows 1"),
        (lambda: Targets.from_classes([0.0, 1.0], 3), r"\(N,\) integers, got float64"),
        (lambda: Targets.from_dense(DENSE, multi_label=True).classes(), "no single class"),
    ],
)
def test_targets_that_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_long_lists_of_rows_are_cut_short() -> None:
    assert shown([1, 2, 3, 4, 5]) == "1, 2, 3, 4, 5"
    assert shown(np.arange(9)) == "0, 1, 2, 3, 4, ... (9 in all)"


def a_table() -> Table:
    return Table.of(
        {"frames": np.arange(12, dtype=np.float32).reshape(4, 3), "sound": np.full((4, 2), np.nan)},
        {"frames": [1, 1, 1, 1], "sound": [False] * 4},
        Targets.from_classes([0, 1, 1, 0], 2),
        groups=["a", "a", "b", "c"],
        splits=["train", "val", "train", "test"],
        ids=["c1", "c2", "c3", "c4"],
    )


def test_a_table_is_zero_where_a_clip_lacks_something() -> None:
    table = a_table()
    assert len(table) == 4 and table.names == ("frames", "sound") and not table.multi_label
    assert table.widths == {"frames": 3, "sound": 2}
    assert table.features["frames"].dtype == np.float32
    assert not table.features["sound"].any() and table.present["sound"].dtype == bool
    np.testing.assert_array_equal(table.there, [[True, False]] * 4)


def test_rows_and_parts_of_a_table() -> None:
    table = a_table()
    np.testing.assert_array_equal(table.rows("train"), [0, 2])
    part = table.part(table.rows("train")[::-1])
    assert part.ids.tolist() == ["c3", "c1"] and part.groups.tolist() == ["b", "a"]
    np.testing.assert_array_equal(part.features["frames"], [[6, 7, 8], [0, 1, 2]])
    np.testing.assert_array_equal(part.targets.classes(), [1, 0])
    assert len(table.part(table.rows("none"))) == 0
    assert table.part(table.present["frames"]).ids.tolist() == table.ids.tolist()


def test_columns_of_a_table() -> None:
    table = a_table()
    assert table.select(["sound", "frames"]).names == ("sound", "frames")
    assert table.astype(np.float64).features["frames"].dtype == np.float64
    more = table.with_feature("sound", np.ones((4, 5)), np.array([True, False, True, True]))
    assert more.widths == {"frames": 3, "sound": 5} and table.widths["sound"] == 2
    np.testing.assert_array_equal(more.there[:, 1], [True, False, True, True])
    assert more.with_feature("flow", np.ones((4, 1))).present["flow"].all()


def test_what_is_not_given_has_defaults() -> None:
    table = Table.of({"frames": [[1, 2], [3, 4]]})
    assert table.features["frames"].dtype == np.float64
    assert table.groups.tolist() == [0, 1] and table.ids.tolist() == ["0", "1"]
    assert table.splits.tolist() == ["", ""] and table.targets.n_classes == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Table.of({}), "at least one stream"),
        (lambda: Table.of({"a": [1.0, 2.0]}), r"must be \(2, D\) with presence"),
        (lambda: Table.of({"a": [[1.0]], "b": [[1.0]] * 2}), r"'b' must be \(1, D\)"),
        (lambda: Table.of({"a": [[1.0]]}, {"a": [True, True]}), r"presence \(1,\)"),
        (lambda: Table.of({"a": [[1.0]]}, {"b": [True]}), r"no presence of \['a'\]"),
        (lambda: Table.of({"a": [[0.0], [np.inf]]}), "'a' hold NaN or infinity in rows 1"),
        (lambda: Table.of({"a": [[1.0]]}, targets=Targets.unlabeled(2)), r"must be \(2, D\)"),
        (lambda: Table.of({"a": [[1.0]]}, groups=["x", "y"]), r"groups must be \(1,\)"),
        (lambda: Table.of({"a": [[1.0]]}, splits="train"), r"splits must be \(1,\)"),
        (lambda: a_table().select(["flow"]), r"no features of \['flow'\]"),
        (lambda: replace(a_table(), present={}), "presence of"),
        (lambda: a_table().select(["sound"]).check_everywhere(), "rows 0, 1, 2, 3 have none"),
    ],
)
def test_tables_that_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""The cuts against their definition: which groups may be taken, and that no better move is left."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from actors.errors import UserError
from pipelines.data.splits import (
    SplitSettings,
    _tally,
    check_number,
    check_settings,
    compile_pattern,
    cut_fold,
    cut_share,
    find_group,
)


def clips(*groups):
    """Columns (labels, groups) of groups given as name -> {class name or None: clips}."""
    rows = [
        ((label,) if label else (), name)
        for name, counts in groups
        for label, count in counts.items()
        for _ in range(count)
    ]
    return [labels for labels, _ in rows], [name for _, name in rows]


def drawn(seed, n_groups=14, classes="abcd"):
    """Groups of uneven size; class d is rare, and some clips have no label."""
    random = np.random.default_rng(seed)
    most = {"a": 9, "b": 5, "c": 3, "d": 1, None: 2}
    return clips(
        *(
            (f"g{g:02d}", {name: int(random.integers(most[name] + 1)) for name in [*classes, None]})
            for g in range(n_groups)
        )
    )


def tally(labels, groups, chosen):
    """Clips per class, and of all ('all'), inside ``chosen``."""
    inside = [row for row, group in zip(labels, groups, strict=True) if group in chosen]
    return Counter(name for row in inside for name in row) + Counter(all=len(inside))


def distance(labels, groups, chosen, share):
    """Sum over the classes and all clips of (share taken - share wanted) squared."""
    total, taken = tally(labels, groups, set(groups)), tally(labels, groups, chosen)
    return sum((taken[name] / total[name] - share) ** 2 for name in total)


def takes_a_class_whole(labels, groups, chosen):
    total, taken = tally(labels, groups, set(groups)), tally(labels, groups, chosen)
    return any(taken[name] >= total[name] for name in total)


def test_clips_are_counted_per_group_and_class_and_shares_compared():
    found = _tally([("b", "a"), ("a",), (), ("a",)], ["g", "h", "h", "h"], seed=0)
    counts = dict(zip(found.names, found.counts.tolist(), strict=True))
    # Classes a and b, then all clips.
    assert counts == {"g": [1, 1, 1], "h": [2, 0, 3]}
    assert found.weight.tolist() == [1 / 9, 1, 1 / 16]


def test_as_many_labels_as_groups_are_needed():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        cut_share([("a",), ("a",)], ["g"], share=0.5, seed=0, every_class=True)


@pytest.mark.parametrize("share", [0.15, 0.3])
@pytest.mark.parametrize("seed", range(12))
def test_no_single_group_would_bring_a_cut_nearer_to_the_share(seed, share):
    labels, groups = drawn(seed)
    chosen = cut_share(labels, groups, share=share, seed=seed, every_class=False)
    assert chosen and not takes_a_class_whole(labels, groups, chosen)
    best = distance(labels, groups, chosen, share)
    for group in set(groups):
        other = chosen ^ {group}
        if other and not takes_a_class_whole(labels, groups, other):
            assert distance(labels, groups, other, share) > best - 1e-9, group


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_only_taken_where_every_class_must_be(seed):
    rare = [(f"r{i}", {"rare": 1, "common": 10}) for i in range(2)]
    labels, groups = clips(*rare, *((f"g{i}", {"common": 1}) for i in range(80)))
    loose = cut_share(labels, groups, share=0.1, seed=seed, every_class=False)
    strict = cut_share(labels, groups, share=0.1, seed=seed, every_class=True)
    assert tally(labels, groups, loose) == {"common": 10, "all": 10}
    assert tally(labels, groups, strict)["rare"] == 1


@pytest.mark.parametrize("every_class", [True, False])
def test_one_group_is_taken_even_of_the_smallest_share(every_class):
    labels, groups = clips(("small", {"a": 2}), ("big", {"a": 10}), ("bigger", {"a": 20}))
    chosen = cut_share(labels, groups, share=1e-6, seed=0, every_class=every_class)
    assert chosen == {"small"}


def test_clips_without_a_label_are_cut_as_a_class_of_their_own():
    labels, groups = clips(*((f"g{i}", {None: 1}) for i in range(10)))
    assert len(cut_share(labels, groups, share=0.2, seed=0, every_class=True)) == 2


def test_nothing_is_cut_from_nothing():
    assert cut_share([], [], share=0.5, seed=0, every_class=True) == frozenset()


@pytest.mark.parametrize(
    ("sizes", "least", "expected"),
    [
        # The share asks for the first one; a second one follows only where it is asked for.
        ([1, 1, 1, 97], 1, 1),
        ([1, 1, 1, 97], 2, 2),
        # As many must be left: of three groups none, of five (least 3) none.
        ([1, 1, 98], 2, 1),
        ([1, 1, 1, 1, 96], 3, 2),
        ([1, 1, 1, 1, 1, 95], 3, 3),
        # Two fifths of the clips may go, not more.
        ([20, 20, 20, 20, 20], 2, 2),
        ([25, 25, 25, 25], 2, 1),
    ],
)
def test_the_least_number_of_groups_is_taken_where_it_can_be_spared(sizes, least, expected):
    labels, groups = clips(*((f"g{i}", {"a": size}) for i, size in enumerate(sizes)))
    chosen = cut_share(labels, groups, share=0.005, seed=0, every_class=True, least=least)
    assert len(chosen) == expected
    assert len(cut_share(labels, groups, share=0.005, seed=0, every_class=True)) == 1


def test_a_further_group_never_takes_a_class_whole():
    # Only g0 to g2 have both classes to spare, and class b would be gone with the second of them.
    labels, groups = clips(
        ("g0", {"a": 1, "b": 1}), ("g1", {"a": 1, "b": 1}), ("g2", {"a": 40}), ("g3", {"a": 41})
    )
    chosen = cut_share(labels, groups, share=0.01, seed=0, every_class=True, least=2)
    assert len(chosen & {"g0", "g1"}) == 1 and not takes_a_class_whole(labels, groups, chosen)


@pytest.mark.parametrize("seed", range(6))
def test_folds_of_uneven_groups_are_of_like_size_and_classes(seed):
    labels, groups = drawn(seed, n_groups=40)
    total = tally(labels, groups, set(groups))
    for fold in range(1, 5):
        held = tally(labels, groups, cut_fold(labels, groups, folds=4, fold=fold, seed=seed))
        for name in ("all", "a", "b", "c"):
            assert held[name] / total[name] == pytest.approx(0.25, abs=0.06), (fold, name)


def folds_of(labels, groups, folds, seed=0):
    return [set(cut_fold(labels, groups, folds=folds, fold=f + 1, seed=seed)) for f in range(folds)]


def test_the_biggest_groups_are_handed_out_first():
    # Sizes 6, 5, 4, 3, 2 in two folds: 6 | 5, then 4 to the 5, 3 to the 6, 2 to either.
    sizes = {"six": 6, "five": 5, "four": 4, "three": 3, "two": 2}
    for seed in range(8):
        labels, groups = clips(*((name, {None: size}) for name, size in sizes.items()))
        found = [fold - {"two"} for fold in folds_of(labels, groups, 2, seed)]
        assert found == [{"six", "three"}, {"five", "four"}]
        # Labels of some clips do not change what is biggest.
        labels = [("b",) if group == "two" else () for group in groups]
        assert [fold - {"two"} for fold in folds_of(labels, groups, 2, seed)] == found


def test_a_rare_class_weighs_as_much_as_a_common_one():
    # Both folds hold 50 clips of a; the two groups of the rare class go apart, whatever else
    # would make the folds more even.
    for seed in range(8):
        labels, groups = clips(
            ("a0", {"a": 60}), ("a1", {"a": 50}), ("r0", {"a": 6, "r": 1}), ("r1", {"a": 5, "r": 1})
        )
        for fold in folds_of(labels, groups, 2, seed):
            assert len(fold & {"r0", "r1"}) == 1


def test_of_equally_crowded_folds_the_one_of_fewer_clips_takes_the_group():
    # Of 6 clips of z and 18 in all: 2 / 6² + 13 / 18² = 3 / 6² + 4 / 18².
    labels, groups = clips(
        ("first", {"z": 2, None: 11}), ("second", {"z": 3, None: 1}), ("last", {"z": 1})
    )
    for seed in range(4):
        assert folds_of(labels, groups, 2, seed) == [{"first"}, {"second", "last"}]


def test_settings_at_their_bounds():
    check_settings(SplitSettings())
    check_settings(SplitSettings(folds=2, fold=2))
    check_settings(SplitSettings(folds=2, fold=1))
    check_settings(SplitSettings(group_pattern=None, test_pattern="x"))
    check_settings(SplitSettings(test_share=0.999, validation_share=0.001))
    assert SplitSettings().number == 1
    for change in ({"test_share": 1}, {"validation_share": float("nan")}, {"folds": 2, "fold": 3}):
        with pytest.raises(UserError, match=f"splits.{[*change][-1]} is"):
            check_settings(replace(SplitSettings(), **change))


def test_official_splits_are_numbered_from_one_to_three():
    for number in (1, 2, 3):
        check_number(number)
    check_number(4, count=4)
    for number in (0, 4):
        with pytest.raises(UserError, match=f"splits.number is {number}; .* splits 1 to 3"):
            check_number(number)


def test_the_group_of_an_id():
    pattern = compile_pattern(r"_(g\d*)?_", "splits.group_pattern")
    assert find_group("v_g07_c1", pattern) == "g07"
    # Without a match, and where the parentheses match nothing, a clip is a group of its own.
    assert find_group("v.avi", pattern) == "v.avi"
    assert find_group("v__c1", pattern) == "v__c1"
    assert find_group("v_g07_c1", None) == "v_g07_c1"

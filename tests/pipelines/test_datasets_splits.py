"""The cuts: whole groups, like shares of every class, the same for the same seed."""

import re
from collections import Counter
from pathlib import Path

import pytest

from actors.errors import UserError
from pipelines.data import SplitSettings, read_dataset
from pipelines.data.manifest import Manifest
from pipelines.data.splits import cut_fold, cut_share


def grouped(classes: int, groups: int, clips: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Every group holds `clips` clips of every class."""
    rows = [
        ((f"class{c}",), f"g{g:02d}")
        for c in range(classes)
        for g in range(groups)
        for _ in range(clips)
    ]
    return [labels for labels, _ in rows], [group for _, group in rows]


def people(root: Path, count: int = 7, classes: tuple[str, ...] = ("Bend", "Wave")) -> Path:
    """Class folders with two clips of each person, named as UCF-101 names them."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for person in range(1, count + 1):
            for clip in (1, 2):
                (root / name / f"v_{name}_g{person:02d}_c{clip:02d}.avi").touch()
    return root


def read(root: Path, seed: int = 0, **settings):
    return read_dataset(root, "folders", splits=SplitSettings(**settings), seed=seed)


@pytest.mark.parametrize("share", [0.15, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_cut_of_single_clips_takes_the_share_of_every_class(share, seed):
    labels = [(name,) for name, n in (("a", 100), ("b", 40), ("c", 20)) for _ in range(n)]
    clips = [f"clip{i}" for i in range(len(labels))]
    chosen = cut_share(labels, clips, share=share, seed=seed, every_class=True)
    counts = Counter(labels[int(name[4:])][0] for name in chosen)
    assert counts == {"a": round(100 * share), "b": round(40 * share), "c": round(20 * share)}


def test_a_cut_takes_whole_groups_of_uneven_size_near_the_share():
    labels, groups = [], []
    for g in range(40):
        for c, count in (("a", 1 + g % 7), ("b", 1 + g % 3)):
            labels += [(c,)] * count
            groups += [f"g{g}"] * count
    chosen = cut_share(labels, groups, share=0.25, seed=0, every_class=True)
    total = Counter(row[0] for row in labels)
    taken = Counter(row[0] for row, g in zip(labels, groups, strict=True) if g in chosen)
    assert all(abs(taken[c] / total[c] - 0.25) < 0.03 for c in "ab")


def test_multi_label_clips_and_clips_without_a_label_are_cut_alike():
    labels = [("a",)] * 60 + [("a", "b")] * 20 + [()] * 40
    clips = [str(i) for i in range(120)]
    chosen = {int(i) for i in cut_share(labels, clips, share=0.2, seed=0, every_class=True)}
    taken = Counter(label for i in chosen for label in labels[i])
    assert abs(taken["a"] - 16) <= 1 and abs(taken["b"] - 4) <= 1 and abs(len(chosen) - 24) <= 1


def test_no_class_is_taken_whole():
    labels = [("rare",), ("rare",), *[("common",)] * 50]
    groups = ["g0", "g1", *(f"h{i}" for i in range(50))]
    for share in (0.1, 0.5, 0.9):
        chosen = cut_share(labels, groups, share=share, seed=0, every_class=True)
        assert len(chosen & {"g0", "g1"}) == 1


def test_nothing_is_taken_when_nothing_can_be_spared():
    assert not cut_share([("a",), ("b",)], ["g", "h"], share=0.5, seed=0, every_class=True)


def test_the_same_seed_gives_the_same_cut_in_any_order_of_rows():
    labels, groups = grouped(3, 20, 2)
    backwards = cut_share(labels[::-1], groups[::-1], share=0.2, seed=5, every_class=True)
    forwards = cut_share(labels, groups, share=0.2, seed=5, every_class=True)
    assert forwards == backwards
    seeds = {cut_share(labels, groups, share=0.2, seed=s, every_class=True) for s in range(5)}
    assert len(seeds) > 1


@pytest.mark.parametrize("folds", [2, 4, 7])
def test_folds_are_disjoint_hold_every_group_and_are_of_like_size(folds):
    labels, groups = grouped(3, 7, 2)
    cuts = [cut_fold(labels, groups, folds=folds, fold=f + 1, seed=0) for f in range(folds)]
    assert sorted(g for cut in cuts for g in cut) == sorted(set(groups))
    assert max(map(len, cuts)) - min(map(len, cuts)) <= 1


def test_folds_spread_the_classes():
    labels = [("a",)] * 40 + [("b",)] * 20
    clips = [str(i) for i in range(60)]
    for fold in range(1, 5):
        chosen = {int(i) for i in cut_fold(labels, clips, folds=4, fold=fold, seed=1)}
        assert Counter(labels[i][0] for i in chosen) == {"a": 10, "b": 5}


def test_leaving_each_person_out_tests_every_clip_once(tmp_path):
    root = people(tmp_path / "clips")
    tested = []
    for fold in range(1, 8):
        manifest = read(root, folds=7, fold=fold)
        groups = [{v.group for v in manifest.split(s)} for s in ("train", "val", "test")]
        assert len(groups[2]) == 1 and len(groups[1]) == 1 and len(groups[0]) == 5
        assert not groups[0] & groups[1] and not (groups[0] | groups[1]) & groups[2]
        tested += [v.id for v in manifest.split("test")]
    assert len(tested) == len(set(tested)) == 28


def test_groups_of_folders_are_people_across_classes(tmp_path):
    manifest = read(people(tmp_path / "clips"))
    assert {v.group for v in manifest.videos} == {f"g{i:02d}" for i in range(1, 8)}


def test_without_a_match_every_clip_is_its_own_group(tmp_path):
    manifest = read(people(tmp_path / "clips"), group_pattern="person(.)")
    assert [v.group for v in manifest.videos] == [v.id for v in manifest.videos]
    assert len(read(tmp_path / "clips", group_pattern=None).split("test")) == 6


def test_test_pattern_chooses_the_test_split(tmp_path):
    manifest = read(people(tmp_path / "clips"), test_pattern=r"_g0[67]_")
    assert {v.group for v in manifest.split("test")} == {"g06", "g07"}
    assert len(manifest.split("val")) == 4


@pytest.mark.parametrize("pattern, what", [("nobody", "no clip"), ("avi$", "every clip")])
def test_test_pattern_that_chooses_nothing_or_everything(tmp_path, pattern, what):
    message = rf"test_pattern '{re.escape(pattern)}' matches {what}.*Bend/v_Bend_g01_c01\.avi"
    with pytest.raises(UserError, match=message):
        read(people(tmp_path / "clips"), test_pattern=pattern)


def test_test_pattern_that_cuts_through_a_group(tmp_path):
    with pytest.raises(UserError, match=r"cuts through group 'g01': .*_c01.*_c02.*whole groups"):
        read(people(tmp_path / "clips"), test_pattern="_c02")


def test_a_class_that_is_in_the_test_fold_only(tmp_path):
    root = people(tmp_path / "clips")
    (root / "Jump").mkdir()
    for clip in (1, 2):
        (root / "Jump" / f"v_Jump_g03_c{clip:02d}.avi").touch()
    with pytest.raises(UserError, match="label 'Jump' is in test but no training clip has it"):
        read(root, test_pattern="_g03_")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"validation_share": 1.0}, r"splits.validation_share is 1.0; .* between 0 and 1"),
        ({"validation_share": 0.0}, r"splits.validation_share is 0.0"),
        ({"test_share": -0.2}, r"splits.test_share is -0.2"),
        ({"folds": 1}, r"splits.folds is 1; there must be at least 2 folds"),
        ({"folds": 8}, r"splits.folds is 8, but .* only 7 groups; use at most 7 folds"),
        ({"folds": 5, "fold": 6}, r"splits.fold is 6; .* one of 1 to 5"),
        ({"folds": 5, "fold": 0}, r"splits.fold is 0; .* one of 1 to 5"),
        ({"fold": 2}, r"splits.fold is 2, but splits.folds is not set"),
        ({"folds": 5, "test_pattern": "x"}, r"both select the test split; give one"),
        ({"group_pattern": "_(g"}, r"splits.group_pattern '_\(g' is not a regular expression: .+"),
        ({"group_pattern": "_g"}, r"group_pattern '_g' has no parentheses; put them around"),
        ({"test_pattern": "["}, r"splits.test_pattern '\[' is not a regular expression"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        read(people(tmp_path / "clips"), **settings)


def test_too_few_groups_to_cut_a_test_split(tmp_path):
    message = r"no test split can be cut from 4 clips in 1 group: .*splits.group_pattern"
    with pytest.raises(UserError, match=message):
        read(people(tmp_path / "clips", count=1))


def test_too_few_groups_to_cut_a_validation_split(tmp_path):
    with pytest.raises(UserError, match=r"no val split can be cut from 4 clips in 1 group: "):
        read(people(tmp_path / "clips", count=2))


def test_a_class_whose_clips_are_of_one_group(tmp_path):
    root = people(tmp_path / "clips")
    (root / "Jump").mkdir()
    for clip in (1, 2):
        (root / "Jump" / f"v_Jump_g03_c{clip:02d}.avi").touch()
    message = r"not enough groups to cut a test split: .*Jump \(1 group"
    with pytest.raises(UserError, match=message):
        read(root)


def test_three_groups_are_enough(tmp_path):
    manifest = read(people(tmp_path / "clips", count=3))
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [4, 4, 4]


@pytest.mark.parametrize("seed", range(4))
def test_validation_has_two_groups_where_training_can_spare_them(tmp_path, seed):
    manifest = read(people(tmp_path), seed)
    assert len({v.group for v in manifest.split("val")}) == 2
    assert len({v.group for v in manifest.split("train")}) >= 3


def test_validation_keeps_one_group_where_a_second_would_take_too_much(tmp_path):
    manifest = read(people(tmp_path, count=5))
    assert len({v.group for v in manifest.split("train")}) == 3
    assert len({v.group for v in manifest.split("val")}) == 1


def test_validation_beside_a_fold_is_cut_as_ever(tmp_path):
    manifest = read(people(tmp_path), folds=7, fold=1)
    assert len({v.group for v in manifest.split("val")}) == 1


def test_where_groups_come_from_is_told(tmp_path):
    assert read(people(tmp_path)).grouping == r"from file names by _(g\d+)_c\d+"
    assert read(tmp_path, group_pattern=None).grouping == "none: each clip its own"
    assert read(tmp_path, group_pattern="(nowhere)").grouping == "none: each clip its own"
    manifest = read(tmp_path)
    assert Manifest.from_table(manifest.to_table()) == manifest

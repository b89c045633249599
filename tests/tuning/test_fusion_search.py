"""Folds that split no group, and cross-validation at one point."""

from dataclasses import replace

import numpy as np
import pytest

from actors.errors import UserError
from trainers.fit.folds import group_folds
from trainers.settings import FusionSettings
from trainers.table import Table
from trainers.targets import Targets
from tuning.fusion_search import cross_validate, search_plan
from tuning.settings import SearchSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(n=90, classes=3, groups=15, noise=4.0):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    features, present = {}, {}
    for name, width in (("spatial", 16), ("audio", 8)):
        centers = 3 * rng.normal(size=(classes, width))
        values = centers[labels] + noise * rng.normal(size=(n, width))
        features[name] = values.astype(np.float32)
        present[name] = np.ones(n, bool)
    present["audio"][::4] = False
    names = np.array([f"g{i // (n // groups)}" for i in range(n)])
    return Table.of(features, present, Targets.from_classes(labels, classes), groups=names)


def test_no_group_is_split_and_every_clip_is_held_out_once():
    clips = drawn()
    groups = clips.groups
    parts = group_folds(groups, 5, targets=clips.targets, seed=0)
    assert len(parts) == 5
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(90))
    for train, held in parts:
        assert not set(groups[train]) & set(groups[held])
        assert set(train) | set(held) == set(range(90))
        # Stratified: each class has its third of the fold.
        assert (clips.targets[held].class_counts == 6).all()


def test_folds_repeat_by_seed():
    clips = drawn()
    first, again = (group_folds(clips.groups, 3, targets=clips.targets, seed=4) for _ in range(2))
    for (_, one), (_, other) in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fewer_groups_than_folds():
    targets = Targets.from_classes([0, 1, 0, 1, 0, 1], 2)
    parts = group_folds(np.array(["a", "a", "b", "b", "c", "c"]), 5, targets=targets, seed=0)
    assert [len(held) for _, held in parts] == [2, 2, 2]
    with pytest.raises(UserError, match="at least 2 groups.*'a'"):
        group_folds(np.array(["a"] * 6), 5, targets=targets, seed=0)


def test_rare_classes_and_several_labels():
    targets = np.zeros((20, 4))
    targets[:, 0] = 1
    targets[3, 1] = targets[7, 2] = targets[8, 2] = 1  # class 3 has none
    targets[0] = 0
    sparse = Targets.from_dense(targets, multi_label=True)
    parts = group_folds(np.arange(20), 5, targets=sparse, seed=0)
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(20))


def test_cross_validation_scores_clips_that_did_not_train():
    clips = drawn()
    seen = []
    result = cross_validate(
        clips,
        FusionSettings(hidden=16, batch_size=16, max_epochs=25),
        lambda2=1e-3,
        lambda3=1e-4,
        folds=3,
        seed=0,
        on_epoch=lambda epoch, metrics: seen.append(metrics),
    )
    assert result["epochs"] == len(seen)
    assert result["score"] == seen[-1]["best_score"] == max(one["score"] for one in seen) > 0.8
    assert seen[int(result["epoch"]) - 1]["held_out_loss"] == result["held_out_loss"]
    assert result["zero_entries"] == seen[-1]["best_zero_entries"] > 0


@pytest.mark.parametrize("keep", ["score", "loss"])
def test_cross_validation_keeps_the_epoch_that_the_fusion_settings_ask_for(keep):
    clips = drawn(noise=8.0)  # hard: the score still climbs where the error has turned
    seen = []
    result = cross_validate(
        clips,
        FusionSettings(hidden=16, batch_size=16, max_epochs=20, keep=keep),
        lambda2=0.0,
        lambda3=0.0,
        folds=3,
        seed=0,
        on_epoch=lambda epoch, metrics: seen.append(metrics),
    )
    highest = max(seen, key=lambda one: (one["score"], -one["held_out_loss"]))
    least = min(seen, key=lambda one: (one["held_out_loss"], -one["score"]))
    assert highest["score"] > least["score"] and highest["held_out_loss"] > least["held_out_loss"]
    best = highest if keep == "score" else least
    assert result["epoch"] == seen[-1]["best_epoch"] == best["epoch"]
    assert result["score"] == seen[-1]["best_score"] == best["score"]
    assert result["held_out_loss"] == seen[-1]["best_loss"] == best["held_out_loss"]
    value = best["score"] if keep == "score" else -best["held_out_loss"]
    assert seen[-1]["rank_value"] == value == max(one["rank_value"] for one in seen)


def test_a_stream_that_one_group_alone_has_stops_no_search():
    clips = drawn()
    clips.present["audio"][:] = clips.groups == "g3"
    seen = []
    result = cross_validate(
        clips,
        FusionSettings(hidden=16, batch_size=16, max_epochs=15),
        lambda2=0.0,
        lambda3=0.0,
        folds=3,
        seed=0,
        on_epoch=lambda epoch, metrics: seen.append(metrics),
    )
    assert all(np.isfinite(list(metrics.values())).all() for metrics in seen)
    assert result["score"] > 0.7


def test_cross_validation_of_noise_is_at_chance():
    clips = drawn(n=300, groups=300)
    rng = np.random.default_rng(1)
    noise = {
        name: rng.normal(size=values.shape).astype(np.float32)
        for name, values in clips.features.items()
    }
    result = cross_validate(
        replace(clips, features=noise),
        FusionSettings(hidden=16, max_epochs=10),
        lambda2=0.0,
        lambda3=0.0,
        folds=3,
        seed=0,
    )
    assert result["score"] < 0.45


def test_the_plan_sees_every_change_that_matters():
    clips = drawn()
    search, fusion = SearchSettings(), FusionSettings()

    def plan(clips=clips, search=search, fusion=fusion, seed=0):
        return search_plan(clips, search, fusion, seed=seed)

    same = plan()
    resources = SearchSettings(concurrent=3, cpus_per_trial=2.0, gpus_per_trial=0.5)
    assert plan(search=resources) == same
    hidden = clips.features["audio"].copy()
    hidden[~clips.present["audio"]] = 5.0
    assert plan(clips.with_feature("audio", hidden, clips.present["audio"])) == same
    targets = clips.targets.dense()[::-1]
    others = [
        plan(clips.with_feature("spatial", clips.features["spatial"] + np.float32(1e-3))),
        plan(replace(clips, targets=Targets.from_dense(targets))),
        plan(replace(clips, targets=Targets.from_dense(targets[::-1], multi_label=True))),
        plan(replace(clips, groups=clips.groups[::-1])),
        plan(search=SearchSettings(trials=2)),
        plan(fusion=FusionSettings(hidden=3)),
        plan(seed=1),
    ]
    assert all(other != same for other in others)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": -1}, "search.trials must be at least 0, got -1"),
        ({"folds": 1}, "search.folds"),
        ({"lambda_min": 0.0}, "search.lambda_min"),
        ({"lambda_min": 1.0}, "search.lambda_min"),
        ({"reduction_factor": 1.0}, "search.reduction_factor"),
        ({"concurrent": 0}, "search.concurrent"),
        ({"cpus_per_trial": 0.0}, "search.cpus_per_trial"),
    ],
)
def test_refuses_settings(changes, message):
    with pytest.raises(UserError, match=message):
        SearchSettings(**changes)


def test_no_trials_is_no_search():
    assert SearchSettings(trials=0).trials == 0

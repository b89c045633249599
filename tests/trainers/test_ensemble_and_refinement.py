"""The mean over the systems a clip has, and the refinement by the confusion matrix."""

import json
import re

import numpy as np
import pytest

from trainers.ensemble import mean_scores
from trainers.metrics.measures import accuracy, mean_average_precision
from trainers.refinement.confusion import confusion_refinement, refine


def test_mean_over_the_systems_a_clip_has():
    scores = {
        "fusion": np.array([[0.2, 0.8], [0.6, 0.4]], np.float32),
        "audio": np.array([[0.4, 0.6], [np.nan, np.nan]], np.float32),
    }
    present = {"fusion": np.array([True, True]), "audio": np.array([True, False])}
    np.testing.assert_allclose(mean_scores(scores, present), [[0.3, 0.7], [0.6, 0.4]], rtol=1e-6)


def test_a_clip_without_any_score_is_named():
    scores = {"audio": np.full((3, 2), 0.5)}
    present = {"audio": np.array([True, False, True])}
    with pytest.raises(ValueError, match="1 clips have no score .* v_b"):
        mean_scores(scores, present, ids=["v_a", "v_b", "v_c"])
    with pytest.raises(ValueError, match="row 1"):
        mean_scores(scores, present)


def test_scores_that_are_not_finite_or_named_otherwise_are_refused():
    with pytest.raises(ValueError, match="'a' hold NaN"):
        mean_scores({"a": np.array([[np.nan]])}, {"a": np.array([True])})
    with pytest.raises(ValueError, match="same systems"):
        mean_scores({"a": np.ones((1, 1))}, {"b": np.array([True])})


def test_rows_are_the_truth_and_an_empty_class_keeps_its_own():
    scores = np.eye(4)[[0, 1, 1, 2, 0]]
    matrix = confusion_refinement(scores, [0, 0, 1, 1, 0])
    np.testing.assert_allclose(
        matrix, [[2 / 3, 1 / 3, 0, 0], [0, 1 / 2, 1 / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    clip = np.array([[0.1, 0.2, 0.3, 0.4]])
    # p_i = sum_j R_ij f_j, written out.
    np.testing.assert_allclose(
        refine(clip, matrix), [[0.2 / 3 + 0.2 / 3, 0.1 + 0.15, 0.3, 0.4]], rtol=1e-12
    )
    assert refine(clip, matrix, normalize=True).sum() == pytest.approx(1)


def test_several_labels_count_once_each():
    scores = np.eye(3)[[0, 2, 1]]
    matrix = confusion_refinement(scores, [[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]])


def test_a_clip_whose_refined_score_is_all_zero_keeps_its_own():
    matrix = np.array([[1.0, 0.0, 0], [1.0, 0.0, 0], [0, 0, 1]])
    refined = refine([[0.0, 0.8, 0.0]], matrix, normalize=True)
    np.testing.assert_allclose(refined, [[0, 1, 0]])


def test_refinement_refuses():
    with pytest.raises(ValueError, match="do not match"):
        refine(np.ones((2, 3)), np.eye(2))
    with pytest.raises(ValueError, match="negative"):
        refine([[-1.0, 1.0]], np.eye(2), normalize=True)
    with pytest.raises(ValueError, match="finite"):
        confusion_refinement([[np.nan, 1.0]], [0])


@pytest.fixture(scope="module")
def ucf101(real_data):
    """(spatial scores, motion scores, labels, groups) of UCF-101's 3,783 test videos, split 1."""
    data = np.load(real_data / "checks/ucf101_split1_twostream_scores_orri17.npz")
    groups = [re.search(r"_g(\d\d)_c", name).group(1) for name in data["video_ids"]]
    spatial, motion = (data[f"{name}_scores"].astype(float) for name in ("spatial", "motion"))
    return spatial, motion, data["labels"], np.array(groups)


def softmax(values):
    values = np.exp(values - values.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


def test_real_ensemble(ucf101, real_data):
    spatial, motion, labels, _ = ucf101
    expected = json.loads((real_data / "checks/ucf101_split1_twostream_expected.json").read_text())
    everyone = np.ones(len(labels), bool)
    present = {"spatial": everyone, "motion": everyone}
    for name, change in (
        ("average_fusion_raw_scores(s+m)", lambda values: values),
        ("average_fusion_softmax", softmax),
    ):
        scores = mean_scores({"spatial": change(spatial), "motion": change(motion)}, present)
        answer = expected["orri17"][name]
        assert accuracy(scores, labels) == pytest.approx(answer["top1"], abs=1e-9)
        assert mean_average_precision(scores, labels).value == pytest.approx(
            answer["macro_mAP"], abs=1e-9
        )


def test_real_refinement_reaches_the_printed_figure(ucf101):
    spatial, motion, labels, groups = ucf101
    scores = softmax((spatial + motion) / 19)
    refined, transposed = np.empty_like(scores), np.empty_like(scores)
    assert len(np.unique(groups)) == 7
    for group in np.unique(groups):
        held = groups == group
        matrix = confusion_refinement(scores[~held], labels[~held])
        refined[held] = refine(scores[held], matrix)
        transposed[held] = refine(scores[held], matrix.T)
    assert accuracy(scores, labels) == pytest.approx(0.8800, abs=5e-5)
    assert accuracy(refined, labels) == pytest.approx(0.8776, abs=5e-5)
    assert accuracy(transposed, labels) == pytest.approx(0.8639, abs=5e-5)

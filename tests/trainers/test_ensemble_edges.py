"""What the mean of scores refuses, and how much of it an error lists."""

import numpy as np
import pytest

from trainers.ensemble import mean_scores

YES, NO = np.array([True]), np.array([False])


@pytest.mark.parametrize(
    ("scores", "present", "message"),
    [
        ({}, {}, "at least one"),
        ({"a": np.ones((1, 2))}, {"a": YES, "b": YES}, r"\['a'\] .* \['a', 'b'\]"),
        ({"a": np.ones((1, 2))}, {"a": np.array([True, True])}, r"\(1, 2\) and presence \(2,\)"),
        ({"a": np.ones(1)}, {"a": YES}, r"scores \(1,\) and presence \(1,\) do not match"),
        ({"a": np.ones((1, 2, 2))}, {"a": np.ones((1, 2))}, r"\(1, 2, 2\) and presence \(1, 2\)"),
        ({"a": np.ones((1, 2)), "b": np.array([[0, np.inf]])}, {"a": NO, "b": YES}, "'b' hold NaN"),
    ],
)
def test_refuses(scores, present, message):
    with pytest.raises(ValueError, match=message):
        mean_scores(scores, present)


def test_every_clip_has_its_own_number_of_systems():
    scores = {name: np.full((3, 1), value) for name, value in (("a", 3.0), ("b", 6.0), ("c", 0.0))}
    present = {
        "a": np.array([True, True, False]),
        "b": np.array([True, False, True]),
        "c": np.array([True, False, False]),
    }
    found = mean_scores(scores, present)
    assert found.dtype == np.float64
    assert found.tolist() == [[3.0], [3.0], [6.0]]


def test_an_error_counts_all_clips_and_names_the_first_ten():
    names = [f"v{i:02d}" for i in range(12)]
    with pytest.raises(ValueError, match="12 clips .*: v00, v01, .*, v08, v09; leave them out"):
        mean_scores({"a": np.ones((12, 1))}, {"a": np.zeros(12, bool)}, ids=names)

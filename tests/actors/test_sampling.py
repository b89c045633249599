"""Index arithmetic against hand-worked cases and other projects' answers."""

import json

import pytest

from actors.media.sampling import resample_indices, stack_indices, uniform_positions


@pytest.mark.parametrize(
    ("n", "count", "expected"),
    [(10, 3, [1, 5, 8]), (1, 3, [0, 0, 0]), (3, 3, [0, 1, 2]), (2, 4, [0, 0, 1, 1])],
)
def test_positions_are_centers_of_equal_segments(n, count, expected):
    assert uniform_positions(n=n, count=count) == expected


def test_positions_agree_with_mmaction2(real_data):
    checks = json.loads((real_data / "checks" / "sampling_and_crops.json").read_text())
    cases = checks["mmaction2_center_segments"]["cases"]
    for case in cases:
        ours = uniform_positions(n=case["total_frames"], count=case["num_clips"])
        assert [i + case["start_index"] for i in ours] == case["indices"], case


def test_refused_values_are_quoted():
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        uniform_positions(n=0, count=3)
    with pytest.raises(ValueError, match="count=-1"):
        uniform_positions(n=3, count=-1)
    with pytest.raises(ValueError, match="start=7 is outside 0..4"):
        stack_indices(start=7, length=2, n=5)
    with pytest.raises(ValueError, match="fps=0 "):
        resample_indices(timestamps=[0.0, 1.0], fps=0)
    with pytest.raises(ValueError, match="fall from 1.0 to 0.5"):
        resample_indices(timestamps=[0.0, 1.0, 0.5], fps=5)


def test_stacks_lie_within_the_clip():
    assert stack_indices(start=0, length=6, n=4) == [0, 1, 2, 3, 3, 3]


def test_resampling_halves_doubles_and_follows_uneven_times():
    even = [i / 30 for i in range(30)]
    assert resample_indices(timestamps=even, fps=15) == list(range(0, 30, 2))
    assert resample_indices(timestamps=even, fps=60) == [i // 2 for i in range(60)]
    assert resample_indices(timestamps=even, fps=30) == list(range(30))
    uneven = [5.0, 5.5, 5.6, 6.0]
    assert resample_indices(timestamps=uneven, fps=4, end=6.5) == [0, 0, 1, 2, 3, 3]
    assert resample_indices(timestamps=[], fps=4) == []

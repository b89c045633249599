"""Index arithmetic at its boundaries, and against a plain reading of the clock."""

import numpy as np
import pytest

from actors.media.sampling import resample_indices, stack_indices, ticks_before, uniform_positions


def test_ticks_at_the_moment_itself_do_not_lie_before_it():
    assert [ticks_before(t, fps=4) for t in (-1.0, 0.0, 0.01, 0.25, 0.26, 1.0)] == [
        0,
        0,
        1,
        1,
        2,
        4,
    ]
    # Rounding of timestamps moves no tick.
    assert ticks_before(0.25 + 1e-9, fps=4) == 1


def slow_resample(times, fps, end):
    """At every tick before the end: the last frame that has come up by then."""
    taken, tick = [], 0
    while times[0] + tick / fps < end - 1e-9:
        now = times[0] + tick / fps
        taken.append(max(i for i, time in enumerate(times) if time <= now + 1e-9))
        tick += 1
    return taken


@pytest.mark.parametrize("seed", range(10))
def test_resampling_shows_the_last_frame_that_has_come_up(seed):
    random = np.random.default_rng(seed)
    times = (np.sort(random.integers(1000, size=30)) / 250 + 7).tolist()
    for fps in (0.5, 1, 3, 10, 100):
        found = resample_indices(timestamps=times, fps=fps, end=times[-1] + 0.5)
        assert found == slow_resample(times, fps, times[-1] + 0.5)


def test_the_last_frame_stays_for_as_long_as_the_one_before_it():
    assert resample_indices(timestamps=[0.0, 3.0, 3.5], fps=4) == [0] * 12 + [1, 1, 2, 2]
    assert resample_indices(timestamps=[0.0, 0.5, 3.5], fps=2) == [0] + [1] * 6 + [2] * 6


def test_a_single_frame_is_shown_for_one_tick():
    assert resample_indices(timestamps=[9.0], fps=0.25) == [0]
    assert resample_indices(timestamps=[9.0], fps=25) == [0]


def test_a_clip_may_end_with_its_last_timestamp():
    assert resample_indices(timestamps=[0.0, 1.0, 2.0], fps=1, end=2.0) == [0, 1]
    with pytest.raises(ValueError, match=r"end=1.9 comes before the last timestamp, 2.0"):
        resample_indices(timestamps=[0.0, 1.0, 2.0], fps=1, end=1.9)


def test_equal_timestamps_are_no_fall():
    assert resample_indices(timestamps=[0.0, 0.0, 1.0], fps=2) == [1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"fall from 2.0 to 1.5 at 3; sort them"):
        resample_indices(timestamps=[0.0, 0.0, 1.0, 2.0, 1.5], fps=2)


@pytest.mark.parametrize("fps", [0.0, -5.0, float("nan")])
def test_a_clock_that_does_not_go_forward_is_refused(fps):
    with pytest.raises(ValueError, match=f"fps={fps} must be positive"):
        resample_indices(timestamps=[0.0], fps=fps)


def test_stacks_at_the_ends_of_a_clip():
    assert stack_indices(start=4, length=2, n=5) == [4, 4]
    assert stack_indices(start=0, length=1, n=1) == [0]
    for start in (-1, 5):
        with pytest.raises(ValueError, match=rf"start={start} is outside 0\.\.4"):
            stack_indices(start=start, length=2, n=5)
    with pytest.raises(ValueError, match="length=0 must be at least 1"):
        stack_indices(start=0, length=0, n=5)


def test_one_position_is_the_middle():
    assert uniform_positions(n=1, count=1) == [0]
    assert uniform_positions(n=7, count=1) == [3]

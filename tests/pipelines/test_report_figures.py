"""The drawings of the report and the sums behind them."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from report_examples import demo

from actors.flow.color import color_wheel, flow_to_color
from pipelines.report import figure_files
from pipelines.report.figures import curve_svg
from pipelines.report.images import pick_evenly
from pipelines.report.matrix import commonest_mistakes, confusion_svg
from pipelines.report.render import duration, interval
from pipelines.report.scales import linear, log_with_zero, thin


@pytest.mark.parametrize(("kept", "shown"), [(40, "0.300"), (None, "0.200")])
def test_the_kept_step_is_marked_and_not_the_best_score(kept: int | None, shown: str) -> None:
    scores = {20: 0.9, 40: 0.3, 60: 0.2}
    records = [{"step": n, "score": s} | ({"kept": 1.0} if n == kept else {})
               for n, s in scores.items()]  # fmt: skip
    drawn = str(curve_svg("spatial_cnn", records))
    assert f">{shown}</text>" in drawn and ">0.900</text>" not in drawn


@pytest.mark.parametrize("names", [["a", "b"], ["WaveTwoHands", "JumpingJack", "Bend", "Walk"]])
def test_labels_of_the_matrix_have_room_in_a_wide_font(names: list[str]) -> None:
    drawn = str(confusion_svg(np.eye(len(names), dtype=int), names))
    letters = float(re.findall(r"font-size:([0-9.]+)px", drawn)[0])
    end = int(re.findall(r'class="end" x="(\d+)"', drawn)[0])
    assert end >= 0.6 * letters * max(len("true ↓ predicted →"), *map(len, names))


def test_figures_stand_alone() -> None:
    files = figure_files(demo())
    assert {"confusion_before.svg", "confusion_after.svg", "curve_motion_lstm.svg"} <= set(files)
    assert {"search_score.svg", "search_zero_rows.svg"} <= set(files)
    for text in files.values():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "--joint" in text and "prefers-color-scheme" not in text


def test_search_draws_zero_apart_and_failed_trials_hollow() -> None:
    text = figure_files(demo())["search_score.svg"]
    root = ElementTree.fromstring(text)
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    kinds = [circle.get("class") for circle in circles]
    assert (kinds.count("trial"), kinds.count("failed"), kinds.count("ring")) == (24, 1, 1)
    line = next(
        path
        for path in root.findall("{http://www.w3.org/2000/svg}path")
        if path.get("class") == "break"
    )
    edge = float(re.match(r"M([\d.]+)", line.get("d", "")).group(1))  # type: ignore[union-attr]
    for trial in demo().trials:
        tip = f"λ2 = {trial['lambda2']:.3g}, λ3 = {trial['lambda3']:.3g}:"
        circle = next(c for c in circles if (c[0].text or "").startswith(tip))
        assert (float(circle.get("cx", "nan")) < edge) == (trial["lambda2"] == 0)


def test_flow_colors_agree_with_torchvision() -> None:
    utils = pytest.importorskip("torchvision.utils")
    torch = pytest.importorskip("torch")
    flow = np.random.default_rng(2).normal(0, 4, (2, 40, 50)).astype(np.float32)
    theirs = utils.flow_to_image(torch.from_numpy(flow)).permute(1, 2, 0).numpy()
    difference = np.abs(flow_to_color(flow).astype(int) - theirs.astype(int))
    assert difference.max() <= 1


def test_flow_colors_of_known_directions() -> None:
    rest_right_down_left = np.array([[[0.0, 2, 0, -2]], [[0, 0, 2, 0]]])
    rest, right, down, left = flow_to_color(rest_right_down_left)[0].astype(int)
    assert rest.tolist() == [255, 255, 255]
    assert right.tolist() == [255, 0, 0]
    assert down[0] > 200 and down[1] > 200 and down[2] == 0
    assert left[0] == 0 and left[1] > 200 and left[2] > 200
    half = flow_to_color(np.array([[[1.0]], [[0.0]]]), max_px=2)[0, 0]
    assert half.tolist() == [255, 127, 127]
    beyond = flow_to_color(np.array([[[4.0]], [[0.0]]]), max_px=2)[0, 0]
    assert beyond.tolist() == [191, 0, 0]
    unknown = flow_to_color(np.array([[[np.nan, 1.7e9, 1.0]], [[0.0, 0, 0]]]))[0]
    assert unknown.tolist() == [[0, 0, 0], [0, 0, 0], [255, 0, 0]]
    assert color_wheel().shape == (55, 3)
    with pytest.raises(ValueError, match=r"\(3, 4, 2\)"):
        flow_to_color(np.zeros((3, 4, 2)))
    with pytest.raises(ValueError, match="max_px is -1"):
        flow_to_color(np.zeros((2, 1, 1)), max_px=-1)


def test_commonest_mistakes_are_off_the_diagonal_largest_first() -> None:
    found = commonest_mistakes(np.array([[9, 1, 0], [4, 5, 0], [0, 0, 3]]), ("a", "b", "c"))
    assert [(m.truth, m.guess, m.count, m.of) for m in found] == [
        ("b", "a", 4, 9),
        ("a", "b", 1, 10),
    ]


def test_axes() -> None:
    axis = linear(0.03, 0.91, 100, 0)
    assert [text for _, text in axis.ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert (axis.place(0), axis.place(1)) == (100, 0)
    flat = linear(2, 2, 0, 10)
    assert 0 < flat.place(2) < 10
    log = log_with_zero([0, 1e-4, 0.02], 0, 100)
    assert [text for _, text in log.ticks] == ["0", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]
    assert log.break_px is not None and log.place(0) < log.break_px < log.place(1e-4)
    assert log_with_zero([1e-4, 0.02], 0, 100).break_px is None
    assert log_with_zero([0.0], 0, 100).place(0) >= 0


def test_thinning_keeps_the_outline() -> None:
    points = [(float(k), math.sin(k / 50)) for k in range(5000)] + [(5000.0, 9.0)]
    kept = thin(points, 200)
    assert len(kept) <= 202 and (5000.0, 9.0) in kept
    assert kept == sorted(kept)
    assert thin(points[:5], 200) == points[:5]


def test_frames_are_picked_evenly() -> None:
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert pick_evenly(frames, 4)[:, 0, 0, 0].tolist() == [0, 3, 5, 8]
    assert len(pick_evenly(frames[:2], 4)) == 2


def test_durations_and_intervals() -> None:
    seconds = (0.42, 8.26, 59.97, 222, 7500)
    assert [duration(s) for s in seconds] == [
        "0.42 s", "8.3 s", "1 min 0 s", "3 min 42 s", "2 h 5 min",
    ]  # fmt: skip
    # Wilson's interval of 8 of 10, as published tables have it.
    assert interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert interval(1.0, 5)[1] == 1.0  # type: ignore[index]
    assert interval(None, 10) is None and interval(math.nan, 10) is None

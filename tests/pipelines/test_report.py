"""The report: every item shows, no name of a user's breaks out, and it stays small and quick."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import time
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from report_examples import CLASSES, demo, example, many_classes, methods, minimal, multi_label
from rich.console import Console

from pipelines.report import (
    DataSummary,
    MethodResult,
    ReportData,
    StageTiming,
    StreamPicture,
    figure_files,
    gather,
    methods_table,
    render_html,
    report_json,
)
from pipelines.report.matrix import hardest_classes
from trainers.evaluation import MethodFigures


class Page(HTMLParser):
    """Checks that tags nest, and gathers what a reader and a browser would find."""

    EMPTY = {"meta", "link", "img", "input", "br"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("dt", "dd", "td", "th", "li", "pre"):
            self.text += " "
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    @property
    def ids(self) -> set[str | None]:
        return {attrs["id"] for _, attrs in self.tags if "id" in attrs}

    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(demo()))


@pytest.mark.parametrize(
    "shown",
    [
        "Hybrid names 96.2% of 160 test clips correctly; the best single stream, Spatial LSTM",
        "clips that have sound",
        "Clues matched",
        "95.2%",  # the share that the spatial CNN reached of its ceiling
        "pipelines/full.py --preset demo --report report.json",
        "9f2c41d0a7be",
        "2026-03-01 14:05 UTC",
        "2 CPUs, 7.8 GiB of memory",
        "2.60.0",
        "network.backbone vgg_small",
        "Without audio 10 clips",
        "3 min 34 s",
        "10.4 clips/s",
        "cached",
        "no frame could be decoded: moov atom not found",
        "broken/half.mp4",
        "no sound",
        "flow, up to 3.5 px",
        "0.010 more than the margin asks for",
        "mlflow ui --backend-store-uri sqlite:////runs/mlflow.db",
        "tensorboard --logdir /runs/search",
        "λ2 (rows)",
    ],
)
def test_the_page_shows(page: Page, shown: str) -> None:
    assert shown in page.words()


def test_every_section_is_there_and_in_the_contents(page: Page) -> None:
    sections = {"results", "confusion", "precision", "examples", "curves", "search", "time"}
    sections |= {"rejected", "run"}
    assert sections <= page.ids
    assert {attrs["href"] for tag, attrs in page.tags if tag == "a"} == {f"#{s}" for s in sections}


def test_the_page_asks_nothing_of_the_network(page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert "url(" not in render_html(demo()) and "@import" not in render_html(demo())


def test_pictures_decode_and_have_a_text(page: Page) -> None:
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    # A wheel; four frames and a field for each of three clips; two of them have sound.
    assert len(pictures) == 1 + 3 * 5 + 2
    for attrs in pictures:
        assert attrs["alt"] is not None
        raw = base64.b64decode((attrs["src"] or "").partition("base64,")[2])
        assert min(Image.open(io.BytesIO(raw)).size) > 50


def test_it_is_quick_and_small() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (12, 480, 640, 3), dtype=np.uint8)
    shown = StreamPicture(kind="pictures", caption="frames", streams=["spatial"], picture=frames)
    clips = [
        dataclasses.replace(clip, previews=[shown, *clip.previews[1:]])
        for clip in [*demo().examples, *demo().examples]
    ]
    begin = time.process_time()
    size = len(render_html(dataclasses.replace(demo(), examples=clips)))
    assert time.process_time() - begin < 4
    # Noise is the worst that a JPEG can meet.
    assert size < 2_000_000


def test_names_of_users_are_escaped_everywhere() -> None:
    evil = '<script>alert("1")</script>'
    classes = (evil, *CLASSES[1:])
    clip = dataclasses.replace(
        example(0, CLASSES[0], CLASSES[1]),
        id=evil, truth=(evil,), predicted=evil, opinions={evil: [(evil, 0.9)]}, shares={evil: 1.0},
    )  # fmt: skip
    data = dataclasses.replace(
        demo(),
        title=evil, command=evil, started=evil, machine=evil,
        versions={evil: evil}, settings={evil: evil, "group": {evil: [evil]}},
        data=DataSummary(
            name=evil, fingerprint=evil, clips={evil: 3}, classes=classes, absent={evil: 1}
        ),
        methods=[MethodResult(name=evil, label=evil, note=evil, n=3, accuracy=0.5)],
        curves={evil: [{"step": 1, "score": 0.5}]},
        stages=[StageTiming(name=evil, seconds=1, unit=evil, items=3)],
        rejected=[{"id": evil, "stage": evil, "kind": evil, "message": evil}],
        examples=[clip],
        mlflow={key: evil for key in demo().mlflow},
    )  # fmt: skip
    html = render_html(data)
    assert "<script>alert" not in html
    evil_page = Page(html)
    assert sum(tag == "script" for tag, _ in evil_page.tags) == 1
    assert evil_page.text.count(evil) > 30
    assert all("<script>alert" not in svg for svg in figure_files(data).values())
    # The terminal's own markup is no way in either.
    named = dataclasses.replace(data, methods=[MethodResult(name="a", label="[red]a", n=1)])
    assert "[red]a" in terminal(named)


@pytest.mark.slow
def test_a_hundred_and_one_classes_stay_legible_and_fit_the_page() -> None:
    data = many_classes()
    svg = ElementTree.fromstring(figure_files(data)["confusion_before.svg"])
    space = "{http://www.w3.org/2000/svg}"
    assert float(svg.get("width", "nan")) <= 1064
    group = svg.find(f"{space}g")
    assert group is not None
    assert float((group.get("style") or "").removeprefix("font-size:").removesuffix("px")) >= 8
    cells = svg.findall(f"{space}rect")
    assert len(cells) == np.count_nonzero(np.asarray(data.confusion))
    assert len([label for label in group if label.find(f"{space}title") is not None]) == 2 * 101
    words = Page(render_html(data)).words()
    assert "and 800 more" in words


def test_a_run_without_sound_or_pictures_has_no_empty_boxes() -> None:
    words = Page(render_html(many_classes())).words()
    assert "spectrogram" in words
    assert "no frames" not in words and "no flow" not in words


def test_more_classes_than_can_be_drawn_leave_the_hardest() -> None:
    size = 160
    confusion = np.diag(np.full(size, 5))
    confusion[150, 20] = 3
    names = tuple(f"class {k}" for k in range(size))
    summary = DataSummary(name="many", fingerprint="0", clips={"test": 803}, classes=names)
    data = dataclasses.replace(minimal(), data=summary, confusion=confusion)
    assert {20, 150} <= set(hardest_classes(confusion, 100).tolist())
    words = Page(render_html(data)).words()
    assert "Of 160 classes, the 100 with the most errors" in words
    assert "class 150 predicted as class 20 · 3 of 8" in words


def test_several_labels_are_ranked_by_map_and_have_no_accuracy() -> None:
    found = Page(render_html(multi_label()))
    assert "mean average precision of 75.0% on 40 test clips" in found.words()
    assert "confusion" not in found.ids
    assert "Accuracy" not in found.words() and "nan" not in found.words().lower()
    assert "no clip" in found.words()
    assert "accuracy" not in terminal(multi_label())


def test_the_least_that_can_be_reported_has_no_empty_sections() -> None:
    found = Page(render_html(minimal()))
    assert {"results", "rejected", "run"} <= found.ids
    assert not {"confusion", "precision", "examples", "curves", "search", "time"} & found.ids
    assert "None: all videos could be used." in found.words()


def test_json_has_the_agreed_keys_and_no_nan() -> None:
    found = report_json(demo())
    assert set(found) == {"methods", "stages", "rejected", "mlflow"}
    assert found["methods"]["hybrid"] == {
        "accuracy": 0.9625,
        "mean_class_accuracy": 0.9625 - 0.004,
        "map": 0.9625 + 0.02,
        "hit5": 1.0,
        "n": 160,
        "ceiling": 1.0,
        "share_of_ceiling": 0.9625,
    }
    assert found["stages"]["demo videos"] == {"seconds": 0.4, "cached": True}
    assert found["rejected"] == 3
    assert found["mlflow"] == {
        "run_id": "4d1f0c2a9be14d3c",
        "model_version": 3,
        "promoted": True,
    }
    bare = report_json(multi_label())
    assert json.loads(json.dumps(bare, allow_nan=False)) == bare
    assert bare["methods"]["hybrid"]["accuracy"] is None
    assert bare["mlflow"] == {"run_id": None, "model_version": None, "promoted": None}


def terminal(data: ReportData, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(methods_table(data))
    return console.export_text()


def test_terminal_table_has_every_method_and_ceiling() -> None:
    text = terminal(demo())
    for method in methods():
        assert method.label in text
    row = next(line for line in text.splitlines() if "Motion LSTM" in line)
    assert re.findall(r"[\d.]+%?", row) == [
        "23.1%", "22.7%", "25.1%", "57.8%", "25.0%", "92.4%", "160",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confusion": np.zeros((3, 16))}, r"confusion has the shape \(3, 16\); .* \(16, 16\)"),
        ({"ap_after": np.zeros(15)}, r"ap_after has the shape \(15,\)"),
    ],
)
def test_shapes_that_do_not_fit_the_classes_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(demo(), **change)


def test_pictures_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pictures are float64; give uint8"):
        StreamPicture(kind="pictures", caption="", streams=[], picture=np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"flow has the shape \(8, 8, 2\)"):
        StreamPicture(kind="flow", caption="", streams=[], picture=np.zeros((8, 8, 2)))


def test_the_chosen_refinement_is_marked_and_repeated_as_refined():
    rows = [
        MethodResult(name="hybrid", label="Hybrid", n=9, accuracy=0.5),
        MethodResult(name="refined_dasd", label="Hybrid + DASD", n=9, accuracy=0.4),
        MethodResult(
            name="refined_learned", label="Hybrid + learned", n=9, accuracy=0.6,
            note="chosen", chosen=True,
        ),
    ]  # fmt: skip
    data = dataclasses.replace(
        minimal(), methods=rows, joint="hybrid", refinement="learned: <best> of all"
    )
    assert report_json(data)["methods"]["refined"]["accuracy"] == 0.6
    html = render_html(data)
    words = Page(html).words()
    assert "60.0% refined" in words and "Refinement: learned: <best> of all." in words
    assert "<best>" not in html
    none = dataclasses.replace(rows[0], chosen=True)
    data = dataclasses.replace(data, methods=[none, *rows[1:2]])
    assert report_json(data)["methods"]["refined"]["accuracy"] == 0.5
    assert "refined</dd>" not in render_html(data)


def test_hit_at_5_is_left_out_where_every_clip_hits() -> None:
    figures = MethodFigures(8, 8, {"accuracy": 0.5, "hit_at_5": 1.0}, 0.5)
    few, many = (
        gather._method("hybrid", "Hybrid", figures, None, None, classes=classes).hit5
        for classes in (5, 6)
    )
    assert (few, many) == (None, 1.0)


def test_the_page_warns_of_small_splits_and_tells_where_groups_come_from() -> None:
    data = minimal()
    summary = dataclasses.replace(
        data.data, groups="3 groups (from the table)", warnings=["only 3 test clips"]
    )
    words = Page(render_html(dataclasses.replace(data, data=summary))).words()
    assert "Warning: only 3 test clips." in words and "3 groups (from the table)" in words


def test_the_page_has_the_notes_of_the_stages() -> None:
    data = minimal()
    summary = dataclasses.replace(data.data, notes=["optical flow runs on the CPU"])
    words = Page(render_html(dataclasses.replace(data, data=summary))).words()
    assert "Note: optical flow runs on the CPU." in words

"""What a system's output leaves, whoever made it: what is read of it, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from actors.errors import UserError
from actors.storage import Storage
from pipelines.cli.compare_options import check_methods
from pipelines.cli.settings import Settings, parse_settings
from pipelines.report.examples import _previews
from pipelines.report.gather import _search
from pipelines.steps.evaluate import shown_rows
from pipelines.steps.opening import check_settings
from pipelines.steps.score import ScoreSet, read_final_scores
from pipelines.steps.step import Row, Step, StepResult, System
from trainers.table import Table
from trainers.targets import Targets

TABLE = Table.of({"a": np.zeros((3, 1))}, targets=Targets.from_classes(np.array([0, 1, 1]), 2))


def system(**options: Any) -> System:
    rows = {"svm": Row("SVM", ("a",))}
    return System("mine", "Mine", {"a": "frames"}, (Step("last", len),), "last", rows, **options)


@pytest.fixture
def left(tmp_path):
    """The result of an output step with these rows and facts."""

    def make(*rows: str, clips: int = 3, **facts: Any) -> StepResult:
        tensors: dict[str, np.ndarray] = {}
        for row in rows:
            tensors[f"{row}.scores"] = np.full((clips, 2), 0.5)
            tensors[f"{row}.present"] = np.ones(clips, bool)
        storage = Storage(tmp_path)
        storage.write_bytes("scores.safetensors", safetensors.numpy.save(tensors))
        return StepResult("last", "mark", storage, {"rows": list(rows), **facts}, 0.0, False)

    return make


def test_an_answer_without_ensemble_and_refinement_is_enough(left):
    final = read_final_scores(system(answer="svm"), left("svm", "other"), TABLE)
    assert (final.answer, final.ensemble, final.chosen) == ("svm", "svm", "svm")
    assert final.members == () and final.refinements == ()
    assert final.choice["method"] == "none" and list(final.scores) == ["svm", "other"]
    assert shown_rows(system(answer="svm"), final) == {"svm": Row("SVM", ("a",))}


def test_the_chosen_refinement_is_a_row_of_the_report_also_where_none_is_listed(left):
    facts = {"ensemble": "svm", "members": ["svm"], "choice": {"method": "learned"}}
    rows = ("svm", "refined_dasd", "refined_learned", "refined_colors", "refined")
    final = read_final_scores(system(), left(*rows, **facts), TABLE)
    assert (final.answer, final.chosen) == ("refined", "refined_learned")
    assert final.refinements == ("refined_dasd", "refined_learned")
    assert shown_rows(system(), final)["refined_learned"] == Row("SVM, refined", ("a",))
    plain = facts | {"choice": {"method": "none"}}
    assert read_final_scores(system(), left(*rows, **plain), TABLE).chosen == "svm"


def test_an_output_that_leaves_something_else_is_refused(left, tmp_path):
    nothing = StepResult("last", "mark", Storage(tmp_path / "empty"), {}, 0.0, False)
    with pytest.raises(ValueError, match=r"the output 'last' of the system 'mine' left no scores"):
        read_final_scores(system(), nothing, TABLE)
    with pytest.raises(ValueError, match="has no row 'refined'; its rows are svm"):
        read_final_scores(system(), left("svm"), TABLE)
    with pytest.raises(ValueError, match="has no row 'gone'"):
        read_final_scores(system(answer="svm"), left("svm", members=["gone"]), TABLE)
    with pytest.raises(ValueError, match=r"scores of 'svm' must be \(3, 2\).*they are \(4, 2\)"):
        read_final_scores(system(answer="svm"), left("svm", clips=4), TABLE)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sequences": {"x": "a"}}, "a row of scores is named 'x', as another row is; rename it"),
        ({"fusion": "x"}, "a row of scores is named 'x', as another row is; rename it"),
        ({"ensemble": "x"}, "a row of scores is named 'x', as another row is; rename it"),
        ({"ensemble": "refined"}, "a row of scores is named 'refined', as a part is; rename it"),
        ({"fusion": "a.embed"}, "a row of scores is named 'a.embed', as a part is; rename it"),
        ({"ensemble": "refined_dasd"}, "a row of scores is named 'refined_dasd', as a part is; "
                                       "rename it"),
        ({"sequences": {"y": "b"}}, "the row 'y' is of 'b', which is no stream"),
        ({"members": ("z",)}, "'ensemble' has 'z', which is no row; its rows may be x"),
        ({"members": ()}, "'ensemble' has no members; its rows may be x"),
    ],
)  # fmt: skip
def test_rows_that_collide_are_refused(options, told):
    usual: dict[str, Any] = {"members": ("x",)}
    assert ScoreSet({"a": "frames"}, {"x": "a"}, **usual).needs == ("a.embed",)
    with pytest.raises(ValueError) as error:
        ScoreSet({"a": "frames"}, {"x": "a"}, **(usual | options))
    assert str(error.value) == told


def test_a_row_of_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="row 'r' of system 'mine' is of the stream 'b'; the str"):
        System("mine", "Mine", {"a": "flow"}, (Step("s", len),), "s", {"r": Row("R", ("b",))})


def test_two_rows_of_a_table_with_one_name_are_refused():
    streams = (
        "{cnn: {track: frames, encoder: 'own:vgg_small', weights: none, sequence: {model: lstm}}}"
    )
    settings = parse_settings("", ["--streams", streams])
    with pytest.raises(UserError, match="two rows of the tables would be named 'cnn_lstm'"):
        check_methods(settings, ())


def test_streams_that_the_settings_do_not_describe_have_no_previews():
    job: Any = SimpleNamespace(settings=SimpleNamespace(streams={}))
    clip: Any = SimpleNamespace(tracks=("frames",))
    reader: Any = None
    assert _previews(job, system(), reader, clip) == []


def test_a_search_is_known_by_its_facts():
    trials = [{"lambda2": 1.0, "lambda3": 2.0, "score": 0.5}]
    facts = {"seek": {"trials": trials, **trials[0]}, "join": {"zero_rows": 0.25}, "last": {}}
    steps = tuple(Step(name, len) for name in facts)
    made = System("mine", "Mine", {}, steps, "last", {})
    job: Any = SimpleNamespace(
        results={name: SimpleNamespace(facts=one) for name, one in facts.items()}
    )
    assert _search(job, made) == {"trials": trials, "best": {**trials[0], "zero_rows": 0.25}}
    facts["seek"].clear()
    assert _search(job, made) == {"best": {"zero_rows": 0.25}}


class Bare:
    """Settings without streams."""


def test_a_system_without_streams_names_its_tracks():
    settings = Settings(system="my_systems:bare", system_settings=Bare())
    assert settings.tracks == ()
    with pytest.raises(UserError, match=r"'my_systems:bare' name no tracks; give their class Bare"):
        check_settings(settings)
    Bare.tracks = ("sound", "frames")  # type: ignore[attr-defined]
    assert settings.tracks == ("frames", "sound")

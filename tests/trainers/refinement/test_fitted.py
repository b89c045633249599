"""Fitted refinements: what each method is made of, and what their files hold and refuse."""

import json

import numpy as np
import pytest
import safetensors.numpy
from made_scores import learnable, made

from actors.errors import UserError
from trainers.refinement.confusion import ContextualRefinement
from trainers.refinement.diffusion import SemanticDiffusion
from trainers.refinement.fitted import (
    KEY,
    METHODS,
    FittedRefinement,
    contextual,
    make_method,
    read_record,
)
from trainers.refinement.late_fusion import MeanOfLogits, MeanOfProbabilities
from trainers.refinement.learned import LearnedRefinement
from trainers.refinement.score_streams import to_probabilities

CLASSES = ("a", "b", "c", "d")


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("confusion", ContextualRefinement),
        ("shrunk", ContextualRefinement),
        ("dasd", SemanticDiffusion),
        ("learned", LearnedRefinement),
    ],
)
def test_what_methods_are_made_of(name, kind, multi_label):
    for given, base in (
        ("logits", MeanOfLogits(multi_label, calibrate=True)),
        ("probabilities", MeanOfProbabilities(multi_label)),
    ):
        method = make_method(name, given=given, multi_label=multi_label)
        assert type(method) is kind and method.base == base
        assert method.multi_label == multi_label
    if kind is ContextualRefinement:
        assert method.shrink == (name == "shrunk") and method.normalize
        other = make_method(name, given="logits", multi_label=multi_label, normalize=False)
        assert not other.normalize


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_plain_mean_is_of_what_the_systems_give(multi_label):
    made_of = {
        given: make_method("none", given=given, multi_label=multi_label)
        for given in ("logits", "probabilities")
    }
    assert made_of["logits"] == MeanOfLogits(multi_label, calibrate=False)
    assert made_of["probabilities"] == MeanOfProbabilities(multi_label)


def test_a_method_that_does_not_exist():
    with pytest.raises(ValueError, match="no method 'x'; there are none, confusion, shrunk, dasd"):
        make_method("x", given="logits", multi_label=False)


def fitted(name, *, given="logits", multi_label=False, normalize=True, **changes):
    table = made(n=90, multi_label=multi_label, **changes)
    if name == "learned" and not changes:
        table = learnable(multi_label=multi_label)
    if given == "probabilities":
        table = table_of_probabilities(table)
    return FittedRefinement.fit(
        name, table, given=given, classes=CLASSES, normalize=normalize, facts={"clips": 90}
    ), table


def table_of_probabilities(table):
    for name, values in table.features.items():
        p = to_probabilities(values, multi_label=table.multi_label)
        there = table.present[name]
        table = table.with_feature(name, np.where(there[:, None], p, 0), there)
    return table


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("given", ["logits", "probabilities"])
@pytest.mark.parametrize("name", list(METHODS))
def test_a_file_brings_back_all_of_a_method(name, given, multi_label):
    before, table = fitted(name, given=given, multi_label=multi_label, normalize=False)
    after = FittedRefinement.from_bytes(before.to_bytes())
    for field in ("name", "given", "streams", "classes", "multi_label", "facts", "note"):
        assert getattr(after, field) == getattr(before, field), field
    assert type(after.method) is type(before.method)
    np.testing.assert_array_equal(after.predict_scores(table), before.predict_scores(table))
    assert after.multi_label == multi_label and after.streams == ("system0", "system1")
    assert after.to_bytes() == before.to_bytes()


def test_the_record_of_a_file():
    content = fitted("shrunk")[0].to_bytes()
    record = read_record(content)
    assert {key: record[key] for key in ("format", "method", "given", "streams", "classes")} == {
        "format": 1,
        "method": "shrunk",
        "given": "logits",
        "streams": ["system0", "system1"],
        "classes": list(CLASSES),
    }
    assert set(record["constants"]) == {"temperature", "normalize", "shrinkage"}
    assert read_record(safetensors.numpy.save({"x": np.zeros(1)})) is None
    assert read_record(safetensors.numpy.save({"x": np.zeros(1)}, metadata={"y": "z"})) is None


def crafted(content, tensors=None, **changes):
    """The file with other tensors or another record; None removes a key."""
    record = read_record(content) | changes
    record = {key: value for key, value in record.items() if value is not None}
    own = safetensors.numpy.load(content) if tensors is None else tensors
    return safetensors.numpy.save(own, metadata={KEY: json.dumps(record)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "here has format 2, this version reads 1; fit it again"),
        ({"format": 0}, "here has format 0"),
        ({"format": None}, "here is incomplete: no 'format'"),
        ({"classes": None}, "here is incomplete: no 'classes'"),
        ({"constants": {}}, "here is incomplete: no 'temperature'"),
        ({"tensors": {}}, "here is incomplete: no 'weights'|incomplete: no 'temperatures'"),
        ({"method": "magic"}, "here is damaged: there is no method 'magic'"),
        ({"classes": ["a", "b"]}, r"here is damaged: \w+ is \(.*4.*\), it must be \(.*2.*\)"),
        ({"streams": ["system0"]}, r"here is damaged: \w+ is \(2.*\), it must be \(1"),
    ],
)
def test_files_that_do_not_hold_what_they_say(changes, message):
    learned = fitted("learned")[0]
    assert learned.method.strength is not None
    with pytest.raises(UserError, match=message):
        FittedRefinement.from_bytes(crafted(learned.to_bytes(), **changes), where="here")


def test_files_of_something_else():
    other = safetensors.numpy.save({"x": np.zeros(1)})
    with pytest.raises(UserError, match=r"here holds no refinement; pipelines/refine.py writes"):
        FittedRefinement.from_bytes(other, where="here")
    with pytest.raises(UserError, match="the refinement is damaged"):
        FittedRefinement.from_bytes(b"")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("temperatures", (3,), r"\(2,\)"),
        ("weights", (1,), r"\(2,\)"),
        ("borrowing", (2, 4, 3), r"\(2, 4, 4\)"),
        ("bias", (5,), r"\(4,\)"),
    ],
)
def test_every_tensor_of_the_learned_refinement_is_checked(name, shape, expected):
    content = fitted("learned")[0].to_bytes()
    tensors = safetensors.numpy.load(content) | {name: np.ones(shape)}
    with pytest.raises(UserError, match=rf"{name} is .*, it must be {expected}"):
        FittedRefinement.from_bytes(crafted(content, tensors))


def test_files_of_earlier_versions_are_read():
    learned = fitted("learned")[0]
    content = learned.to_bytes()
    constants = read_record(content)["constants"]
    del constants["learned_from"]
    assert FittedRefinement.from_bytes(crafted(content, constants=constants)).note == learned.note
    confusion, table = fitted("confusion")
    content = confusion.to_bytes()
    constants = read_record(content)["constants"]
    del constants["normalize"]
    back = FittedRefinement.from_bytes(crafted(content, constants=constants))
    np.testing.assert_array_equal(back.predict_scores(table), confusion.predict_scores(table))


def test_notes():
    assert fitted("none")[0].note == fitted("confusion")[0].note == ""
    shrunk = fitted("shrunk")[0]
    assert shrunk.note == f"{shrunk.method.shrinkage:g} of the identity"
    dasd = fitted("dasd")[0]
    assert dasd.note == f"{dasd.method.steps} steps"
    learned = fitted("learned")[0]
    assert learned.note == f"strength {learned.method.strength:g}"
    learned.method.learned_from = "5 of 9 clips"
    assert learned.note.endswith(", learned from 5 of 9 clips")
    alone = fitted("learned", groups=1)[0]
    assert alone.note.startswith("plain mean: fewer than two groups")
    assert list(safetensors.numpy.load(alone.to_bytes())) == []


def test_facts_may_be_left_out_and_scores_are_normalized_unless_told_otherwise():
    fit = FittedRefinement.fit("confusion", made(), given="logits", classes=CLASSES)
    assert fit.facts == {} and fit.method.normalize


def test_a_known_matrix():
    matrix = np.array([[0.5, 0.5], [0.0, 1.0]])
    for normalize in (True, False):
        method = contextual(
            matrix, streams=("s",), classes=("x", "y"), multi_label=False, normalize=normalize
        )
        assert (method.name, method.given) == ("confusion", "probabilities")
        found = method.predict_scores({"s": [[0.2, 0.6]]})
        ratio = np.array([[0.4, 0.6]]) * (0.25 + 0.75)
        # Probabilities of 0.2 and 0.6 count as 0.25 and 0.75.
        plain = np.array([[0.5, 0.75]])
        np.testing.assert_allclose(found, ratio if normalize else plain, atol=1e-9)
    with pytest.raises(ValueError, match=r"a refinement of \(2, 2\) for 3 classes"):
        contextual(
            matrix, streams=("s",), classes=("x", "y", "z"), multi_label=False, normalize=True
        )


def test_scores_that_do_not_fit_are_refused():
    known = fitted("none")[0]
    one = [[0.1, 0.2, 0.3, 0.4]]
    with pytest.raises(ValueError, match=r"fitted on \['system0', 'system1'\], got .* \['x'\]"):
        known.predict_scores({"x": one})
    with pytest.raises(ValueError, match=r"got scores of \[\]"):
        known.predict_scores({})
    with pytest.raises(ValueError, match=r"of 4 classes, got \{'system0': 3\}"):
        known.predict_scores({"system0": [[0.1, 0.2, 0.3]]})
    np.testing.assert_array_equal(
        known.predict_scores({"system1": one}), to_probabilities(np.array(one))
    )

"""A fitted refinement as one object and one file, which the ensemble and `predict` apply.

The file is safetensors: the arrays, and in its metadata what they belong to (method, systems,
classes) as JSON. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from actors.errors import UserError
from trainers.refinement.confusion import ContextualRefinement
from trainers.refinement.diffusion import SemanticDiffusion
from trainers.refinement.late_fusion import MeanOfLogits, MeanOfProbabilities
from trainers.refinement.learned import LearnedRefinement
from trainers.refinement.score_streams import (
    Floats,
    Given,
    ScoreMethod,
    logit_table,
    score_table,
)
from trainers.settings import REFINEMENTS as METHODS
from trainers.table import Table
from trainers.tensor_files import read_metadata

Method = (
    MeanOfLogits
    | MeanOfProbabilities
    | ContextualRefinement
    | SemanticDiffusion
    | LearnedRefinement
)

FORMAT = 1
KEY = "refinement"


def make_method(name: str, *, given: Given, multi_label: bool, normalize: bool = True) -> Method:
    """An unfitted method.

    Args:
        given: what the systems give; the plain mean is taken of these, logits or
            probabilities.
        normalize: see `refinement.refine`.

    Raises:
        ValueError: there is no such method.
    """
    base: MeanOfLogits | MeanOfProbabilities = MeanOfProbabilities(multi_label)
    if given == "logits":
        # The other methods work on probabilities: a mean of raw logits is far too confident.
        base = MeanOfLogits(multi_label, calibrate=name != "none")
    if name == "none":
        return base
    if name in ("confusion", "shrunk"):
        return ContextualRefinement(base, multi_label, normalize=normalize, shrink=name == "shrunk")
    if name == "dasd":
        return SemanticDiffusion(base, multi_label)
    if name == "learned":
        return LearnedRefinement(base, multi_label)
    raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")


@dataclass(eq=False)
class FittedRefinement:
    """A fitted method, and the systems and classes it was fitted for.

    Args:
        name: of the method, see `METHODS`.
        given: whether the systems give logits or probabilities.
        streams: the systems, in order.
        classes: names, in the order of the scores.
        multi_label: whether a clip may have several classes.
        method: fitted.
        facts: whatever else is worth keeping, as JSON knows it.
    """

    name: str
    given: Given
    streams: tuple[str, ...]
    classes: tuple[str, ...]
    multi_label: bool
    method: Method
    facts: Mapping[str, Any]

    @classmethod
    def fit(
        cls,
        name: str,
        table: Table,
        *,
        given: Given,
        classes: tuple[str, ...],
        normalize: bool = True,
        facts: Mapping[str, Any] | None = None,
    ) -> FittedRefinement:
        """Fits a method.

        Args:
            name: of the method, see `METHODS`.
            table: systems' scores as they give them, with targets and groups.
            given: whether these are logits or probabilities.
            classes: C names.
            normalize: see `refinement.refine`.
            facts: kept with it, as JSON knows it.

        Raises:
            ValueError: see `make_method`, `logit_table` and `check_targets`.
        """
        several = table.multi_label
        method = make_method(name, given=given, multi_label=several, normalize=normalize)
        logits = logit_table(table, given=given, multi_label=several)
        cast(ScoreMethod, method).fit(logits)
        return cls(name, given, table.names, classes, several, method, dict(facts or {}))

    @property
    def note(self) -> str:
        """About the fit: why nothing was learned, or the constants chosen."""
        method = self.method
        if isinstance(method, LearnedRefinement):
            of = f", learned from {method.learned_from}" if method.learned_from else ""
            return (
                f"plain mean: {method.fallback}"
                if method.fallback
                else f"strength {method.strength:g}{of}"
            )
        if isinstance(method, SemanticDiffusion):
            return f"{method.steps} steps"
        if isinstance(method, ContextualRefinement) and method.shrink:
            return f"{method.shrinkage:g} of the identity"
        return ""

    def predict_scores(self, scores: Table | Mapping[str, ArrayLike]) -> Floats:
        """(N, C) refined probabilities.

        Args:
            scores: a table of systems' scores of the kind that it was fitted on; or system ->
                (N, C), a row of NaN where a clip has none. Systems may be missing.

        Raises:
            ValueError: a system that it was not fitted on, another number of classes, or see
                `score_table` and `logit_table`.
        """
        names = scores.names if isinstance(scores, Table) else tuple(scores)
        unknown = set(names) - set(self.streams)
        if unknown or not names:
            raise ValueError(f"fitted on {list(self.streams)}, got scores of {list(names)}")
        table = scores if isinstance(scores, Table) else score_table(scores)
        wrong = {name: c for name, c in table.widths.items() if c != len(self.classes)}
        if wrong:
            raise ValueError(f"scores must be of {len(self.classes)} classes, got {wrong}")
        nothing = np.zeros((len(table), len(self.classes)))
        for name in self.streams:
            if name not in table.features:
                table = table.with_feature(name, nothing, np.zeros(len(table), bool))
        logits = logit_table(
            table.select(self.streams), given=self.given, multi_label=self.multi_label
        )
        return self.method.predict_scores(logits)

    def to_bytes(self) -> bytes:
        """The file's content; `from_bytes` reads it."""
        record = {
            "format": FORMAT,
            "method": self.name,
            "given": self.given,
            "streams": list(self.streams),
            "classes": list(self.classes),
            "multi_label": self.multi_label,
            "facts": dict(self.facts),
            "constants": _constants(self.method),
        }
        tensors = {key: np.ascontiguousarray(value) for key, value in _tensors(self.method).items()}
        return safetensors.numpy.save(tensors, metadata={KEY: json.dumps(record)})

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str = "the refinement") -> FittedRefinement:
        """The refinement that `to_bytes` wrote.

        Raises:
            UserError: it is damaged, holds something else, or comes from another version.
        """
        try:
            record = read_record(content)
            if record is None:
                raise UserError(f"{where} holds no refinement; pipelines/refine.py writes one")
            if record["format"] != FORMAT:
                raise UserError(
                    f"{where} has format {record['format']}, this version reads {FORMAT}; fit it "
                    "again, or use the version that made it"
                )
            tensors = safetensors.numpy.load(content)
            constants = record["constants"]
            method = make_method(
                record["method"],
                given=record["given"],
                multi_label=record["multi_label"],
                normalize=constants.get("normalize", True),
            )
            _restore(method, tensors, constants)
            _check_shapes(tensors, len(record["streams"]), len(record["classes"]))
        except KeyError as error:
            raise UserError(f"{where} is incomplete: no {error.args[0]!r}") from error
        except (ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
            raise UserError(f"{where} is damaged: {error}") from error
        return cls(
            record["method"],
            record["given"],
            tuple(record["streams"]),
            tuple(record["classes"]),
            record["multi_label"],
            method,
            record["facts"],
        )


def _check_shapes(tensors: Mapping[str, NDArray], streams: int, classes: int) -> None:
    """Raises ValueError where a tensor is not of this many streams and classes."""
    square = (classes, classes)
    expected = {
        "matrix": square,
        "operator": square,
        "temperatures": (streams,),
        "weights": (streams,),
        "borrowing": (streams, *square),
        "bias": (classes,),
    }
    for name, value in tensors.items():
        if value.shape != expected.get(name, value.shape):
            raise ValueError(f"{name} is {value.shape}, it must be {expected[name]}")


def contextual(
    matrix: NDArray[np.float64],
    *,
    streams: tuple[str, ...],
    classes: tuple[str, ...],
    multi_label: bool,
    normalize: bool,
) -> FittedRefinement:
    """The contextual refinement with a matrix that is already known, on probabilities.

    Raises:
        ValueError: the matrix is not (C, C).
    """
    if matrix.shape != (len(classes), len(classes)):
        raise ValueError(f"a refinement of {matrix.shape} for {len(classes)} classes")
    method = ContextualRefinement(
        MeanOfProbabilities(multi_label), multi_label, normalize=normalize
    )
    method.matrix = np.asarray(matrix, np.float64)
    return FittedRefinement("confusion", "probabilities", streams, classes, multi_label, method, {})


def read_record(content: bytes) -> dict[str, Any] | None:
    """A file's own record; None for safetensors that are no refinement's.

    Raises:
        ValueError: the bytes are no safetensors file.
    """
    text = read_metadata(content).get(KEY)
    return None if text is None else json.loads(text)


def _base(method: Method) -> MeanOfLogits | MeanOfProbabilities:
    return method if isinstance(method, MeanOfLogits | MeanOfProbabilities) else method.base


def _tensors(method: Method) -> dict[str, NDArray]:
    if isinstance(method, ContextualRefinement):
        return {"matrix": method.matrix}
    if isinstance(method, SemanticDiffusion):
        return {"operator": method.operator}
    if isinstance(method, LearnedRefinement) and method.strength is not None:
        return {name: getattr(method, name) for name in LEARNED}
    return {}


LEARNED = ("temperatures", "weights", "borrowing", "bias")


def _constants(method: Method) -> dict[str, Any]:
    base = _base(method)
    found: dict[str, Any] = {}
    if isinstance(base, MeanOfLogits):
        found["temperature"] = base.temperature
    if isinstance(method, ContextualRefinement):
        found |= {"normalize": method.normalize, "shrinkage": method.shrinkage}
    if isinstance(method, SemanticDiffusion):
        found["steps"] = method.steps
    if isinstance(method, LearnedRefinement):
        found |= {name: getattr(method, name) for name in ("strength", "fallback", "learned_from")}
    return found


def _restore(method: Method, tensors: Mapping[str, NDArray], constants: Mapping[str, Any]) -> None:
    base = _base(method)
    if isinstance(base, MeanOfLogits):
        base.temperature = constants["temperature"]
    if isinstance(method, ContextualRefinement):
        method.matrix, method.shrinkage = tensors["matrix"], constants["shrinkage"]
    if isinstance(method, SemanticDiffusion):
        method.operator, method.steps = tensors["operator"], constants["steps"]
    if isinstance(method, LearnedRefinement):
        method.strength, method.fallback = constants["strength"], constants["fallback"]
        # Files of earlier versions do not have it.
        method.learned_from = constants.get("learned_from", "")
        if method.strength is not None:
            for name in LEARNED:
                setattr(method, name, tensors[name])

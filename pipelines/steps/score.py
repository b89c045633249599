"""The step that scores all clips: single members, their ensemble, and its refinements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import safetensors.numpy
import torch

from actors.storage import Storage
from pipelines.steps.fit import NETWORK
from pipelines.steps.fuse import few_threads, load_fused
from pipelines.steps.given import Given
from pipelines.steps.step import Facts, Step, StepResult, System, Work
from pipelines.steps.table import Embedded, read_table
from trainers.embedding import Embedding
from trainers.evaluation import (
    REFINEMENTS,
    Refinements,
    SystemScores,
    ensemble_scores,
    fit_refinements,
    member_scores,
    refined_scores,
)
from trainers.network_files import load_network
from trainers.parts import JoinPart
from trainers.predictor import NamedPart
from trainers.refinement.fitted import METHODS, FittedRefinement
from trainers.sequence.task import score_sequence
from trainers.settings import RefinementSettings
from trainers.table import Table

SCORES = "scores.safetensors"
REFINEMENT = "refinement.safetensors"
REFINED = "refined"
"""Row, and part, of the refined ensemble; the usual `System.answer`."""


@dataclass(frozen=True)
class ScoreSet:
    """Which scores a system has, and which of them its ensemble averages.

    Args:
        streams: stream -> track.
        encoders: row -> stream whose encoder's own scores it holds.
        sequences: row -> stream whose sequence model's scores it holds.
        fusion: step of the fusion, and row of its scores; None: the system has no fusion.
        members: rows that the ensemble averages.
        ensemble: row of the ensemble.

    Raises:
        ValueError: two rows of one name, or one that a refinement or another part has; a row of a
            stream that is not listed; no members, or one that is no row.
    """

    streams: Mapping[str, str]
    encoders: Mapping[str, str] = field(default_factory=dict)
    sequences: Mapping[str, str] = field(default_factory=dict)
    fusion: str | None = None
    members: tuple[str, ...] = ()
    ensemble: str = "ensemble"

    def __post_init__(self) -> None:
        single = [*self.encoders, *self.sequences, *([self.fusion] if self.fusion else [])]
        rows = [*single, self.ensemble]
        taken = [REFINED, *map(refined_row, REFINEMENTS), *(f"{s}.embed" for s in self.streams)]
        for row in rows:
            if rows.count(row) > 1 or row in taken:
                what = "a part" if row in taken else "another row"
                raise ValueError(f"a row of scores is named {row!r}, as {what} is; rename it")
        for row, stream in {**self.encoders, **self.sequences}.items():
            if stream not in self.streams:
                raise ValueError(f"the row {row!r} is of {stream!r}, which is no stream")
        gone = [name for name in self.members if name not in single]
        if gone or not self.members:
            what = f"has {gone[0]!r}, which is no row" if gone else "has no members"
            raise ValueError(f"{self.ensemble!r} {what}; its rows may be {', '.join(single)}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Steps whose results the scores come from."""
        embeds = [f"{stream}.embed" for stream in self.streams]
        fits = [f"{stream}.sequence" for stream in self.sequences.values()]
        return (*embeds, *fits, *([self.fusion] if self.fusion else []))


def refined_row(method: str) -> str:
    """Row of the ensemble as one refinement changes it."""
    return f"{REFINED}_{method}"


def score(scores: ScoreSet, settings: RefinementSettings, given: Given) -> Step:
    """``scores``: every row's scores of every usable clip, and the refined ensemble.

    Its facts: ``rows`` (names of the rows with scores), ``ensemble``, ``members``, and ``choice``
    of the refinement (``method``, ``reason``, ``notes``, ``measures``).
    """
    return Step(
        name="scores",
        run=partial(_score, scores, settings, given),
        settings=settings,
        needs=scores.needs,
        data={**given.table(test=True), "scores": scores},
        load=partial(_load, scores),
        job="evaluate",
        items=len(given.clips),
        describe=lambda facts: f"refinement: {METHODS[facts['choice']['method']]}",
    )


@dataclass(frozen=True)
class FinalScores:
    """What the output of a system left; see `System`.

    Args:
        scores: row -> scores of all usable clips.
        answer: row that is registered.
        ensemble: row of the plain ensemble; without one, the answer.
        members: rows that the ensemble averages.
        choice: refinement ``method``, ``reason``, ``notes`` and ``measures``.
        chosen: row that the answer is equal to.
    """

    scores: Mapping[str, SystemScores]
    answer: str
    ensemble: str
    members: tuple[str, ...]
    choice: Mapping[str, Any]
    chosen: str

    @property
    def refinements(self) -> tuple[str, ...]:
        """Rows of the ensemble as each refinement changes it."""
        return tuple(row for row in map(refined_row, REFINEMENTS) if row in self.scores)


NO_REFINEMENT = {"method": "none", "reason": "the system has none", "notes": {}, "measures": {}}


def read_final_scores(system: System, result: StepResult, table: Table) -> FinalScores:
    """The scores that a system ends in.

    Args:
        result: of its output.
        table: the clips that are scored.

    Raises:
        ValueError: the step left something else than `System` says.
    """
    facts, step = result.facts, f"the output {result.name!r} of the system {system.name!r}"
    if "rows" not in facts or not result.storage.exists(SCORES):
        raise ValueError(
            f"{step} left no scores in {result.storage.path()}; end the system with "
            f"pipelines.steps.score.score, or leave {SCORES} and the fact 'rows'"
        )
    scores, answer = read_row_scores(result), system.answer
    ensemble, members = facts.get("ensemble", answer), tuple(facts.get("members", ()))
    gone = [row for row in (answer, ensemble, *members) if row not in scores]
    if gone:
        raise ValueError(f"{step} has no row {gone[0]!r}; its rows are {', '.join(scores)}")
    wanted = (len(table), table.targets.n_classes)
    for row, one in scores.items():
        if one.scores.shape != wanted or one.present.shape != wanted[:1]:
            raise ValueError(
                f"{step}: scores of {row!r} must be {wanted} with presence {wanted[:1]}, as "
                f"pipelines.steps.table.clip_table lists the clips; they are {one.scores.shape} "
                f"with {one.present.shape}"
            )
    choice = facts.get("choice")
    if choice is None:
        return FinalScores(scores, answer, ensemble, members, NO_REFINEMENT, answer)
    refined = refined_row(choice["method"])
    chosen = refined if refined in scores else ensemble
    return FinalScores(scores, answer, ensemble, members, choice, chosen)


def read_row_scores(result: StepResult) -> dict[str, SystemScores]:
    """Row -> scores of all usable clips, as the step ``scores`` wrote them."""
    tensors = safetensors.numpy.load(result.storage.read_bytes(SCORES))
    return {
        name: SystemScores(tensors[f"{name}.scores"], tensors[f"{name}.present"])
        for name in result.facts["rows"]
    }


def chosen_refinement(result: StepResult) -> FittedRefinement | None:
    """The chosen refinement; None: the plain mean."""
    if result.facts["choice"]["method"] == "none" or not result.storage.exists(REFINEMENT):
        return None
    return FittedRefinement.from_bytes(result.storage.read_bytes(REFINEMENT))


def _score(scores: ScoreSet, settings: RefinementSettings, given: Given, work: Work) -> Facts:
    embedded = read_table(work, given, scores.streams)
    few_threads(embedded.table)
    with work.job.console.stage("scores", unit="clips"):
        rows = _single_scores(scores, embedded, given, work)
        rows[scores.ensemble] = ensemble_scores(rows, scores.members)
        refinements = _fit_refinements(scores, rows, embedded.table, settings, given)
        rows |= refined_scores(
            rows[scores.ensemble], member_scores(rows, embedded.table, scores.members), refinements
        )
    _write(work.storage, rows)
    if refinements.chosen is not None:
        work.storage.write_bytes(REFINEMENT, refinements.chosen.to_bytes())
    return {
        "rows": list(rows),
        "ensemble": scores.ensemble,
        "members": list(scores.members),
        "choice": _choice(refinements),
    }


def _single_scores(
    scores: ScoreSet, embedded: Embedded, given: Given, work: Work
) -> dict[str, SystemScores]:
    """Row -> scores, of the encoders, the sequence models and the fusion."""
    table = embedded.table
    rows = {
        row: SystemScores(embedded.scores[stream], table.present[stream])
        for row, stream in scores.encoders.items()
    }
    for row, stream in scores.sequences.items():
        rows[row] = _sequence_scores(stream, table, given, work)
    if scores.fusion is not None:
        model = load_fused(work.results[scores.fusion].storage)
        fused = model.scores(table.features, table.present)
        rows[scores.fusion] = SystemScores(fused, np.ones(len(table), bool))
    return rows


def _sequence_scores(stream: str, table: Table, given: Given, work: Work) -> SystemScores:
    """A sequence model's scores, one clip at a time, so that memory does not grow with them."""
    network, _ = load_network(work.results[f"{stream}.sequence"].storage, NETWORK)
    embeddings = work.results[f"{stream}.embed"].storage
    artifacts = {clip.video.id: clip.artifact for clip in given.clips}
    present = table.present[stream]
    values = np.zeros((len(table), given.n_classes), np.float32)
    with torch.inference_mode():
        for row in np.flatnonzero(present):
            content = embeddings.read_bytes(artifacts[str(table.ids[row])])
            features = Embedding.from_bytes(content).features
            values[row] = score_sequence(
                cast(Any, network), features, multi_label=given.multi_label
            )
    return SystemScores(values, present)


def _fit_refinements(
    scores: ScoreSet,
    rows: Mapping[str, SystemScores],
    table: Table,
    settings: RefinementSettings,
    given: Given,
) -> Refinements:
    members = member_scores(rows, table, scores.members)
    validation = members.part(members.rows("val"))
    return fit_refinements(validation, settings, classes=given.manifest.classes)


def _choice(refinements: Refinements) -> Facts:
    choice = refinements.choice
    return {
        "method": choice.name,
        "reason": choice.reason,
        "measures": dict(choice.measures),
        "notes": {name: one.note for name, one in refinements.fitted.items() if one.note},
    }


def _write(storage: Storage, rows: Mapping[str, SystemScores]) -> None:
    tensors = {}
    for name, one in rows.items():
        tensors[f"{name}.scores"] = np.ascontiguousarray(one.scores, np.float64)
        tensors[f"{name}.present"] = np.ascontiguousarray(one.present)
    storage.write_bytes(SCORES, safetensors.numpy.save(tensors))


def _load(scores: ScoreSet, work: Work) -> tuple[NamedPart, ...]:
    refinement = chosen_refinement(work.results[work.step.name])
    return (
        NamedPart(scores.ensemble, JoinPart(scores.members), scores.members),
        NamedPart(REFINED, JoinPart(scores.members, refinement), scores.members),
    )

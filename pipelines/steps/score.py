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
from pipelines.steps.step import Facts, Step, StepResult, Work
from pipelines.steps.table import Embedded, read_table
from trainers.embedding import Embedding
from trainers.evaluation import (
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
"""Row, and part, of the refined ensemble, which is registered."""


@dataclass(frozen=True)
class ScoreSet:
    """Which scores a system has, and which of them its ensemble averages.

    Args:
        streams: stream -> track.
        encoders: row -> stream whose encoder's own scores it holds.
        sequences: row -> stream whose sequence model's scores it holds.
        fusion: row of the fusion's scores; None: the system has no fusion.
        members: rows that the ensemble averages.
        ensemble: row of the ensemble.
    """

    streams: Mapping[str, str]
    encoders: Mapping[str, str] = field(default_factory=dict)
    sequences: Mapping[str, str] = field(default_factory=dict)
    fusion: str | None = None
    members: tuple[str, ...] = ()
    ensemble: str = "ensemble"

    @property
    def needs(self) -> tuple[str, ...]:
        """Steps whose results the scores come from."""
        embeds = [f"{stream}.embed" for stream in self.streams]
        fits = [f"{stream}.sequence" for stream in self.sequences.values()]
        return (*embeds, *fits, *(["fusion"] if self.fusion else []))


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


def read_scores(result: StepResult) -> dict[str, SystemScores]:
    """Row -> scores of all usable clips, as the step ``scores`` wrote them."""
    tensors = safetensors.numpy.load(result.storage.read_bytes(SCORES))
    return {
        name: SystemScores(tensors[f"{name}.scores"], tensors[f"{name}.present"])
        for name in result.facts["rows"]
    }


def read_refinement(result: StepResult) -> FittedRefinement | None:
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
        model = load_fused(work.results["fusion"].storage)
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
    refinement = read_refinement(work.results["scores"])
    return (
        NamedPart(scores.ensemble, JoinPart(scores.members), scores.members),
        NamedPart(REFINED, JoinPart(scores.members, refinement), scores.members),
    )

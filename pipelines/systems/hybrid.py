"""Hybrid: CNNs, LSTMs and a regularized fusion network (Jiang et al., section III)."""

from __future__ import annotations

from pipelines.steps.embed import embed
from pipelines.steps.fit import fit_encoder, fit_sequence
from pipelines.steps.fuse import fuse, search
from pipelines.steps.given import Given
from pipelines.steps.score import ScoreSet, score
from pipelines.steps.step import Row, Step, System
from pipelines.systems.hybrid_rows import Members
from pipelines.systems.hybrid_settings import HybridSettings

REFINED_LABELS = {
    "refined_confusion": "Hybrid + contextual refinement",
    "refined_dasd": "Hybrid + DASD",
    "refined_learned": "Hybrid + learned refinement",
}


def hybrid(settings: HybridSettings, given: Given) -> System:
    """Per stream an encoder and, where it has one, a sequence model; then fusion and ensemble."""
    streams = {name: one.track for name, one in settings.streams.items()}
    members = Members.of(settings)
    steps: list[Step] = []
    for name, one in settings.streams.items():
        steps += [] if one.frozen else [fit_encoder(name, one, given)]
        steps += [embed(name, one, given, row=members.encoders.get(name))]
    steps += [
        fit_sequence(name, settings.streams[name], given, row=row)
        for name, row in members.sequences.items()
    ]
    searched = settings.searched
    steps += [search(streams, settings.search, settings.fusion, given)] if searched else []
    steps += [fuse(streams, settings.fusion, given, searched=searched)]
    scores = ScoreSet(
        streams=streams,
        encoders={row: stream for stream, row in members.encoders.items()},
        sequences={row: stream for stream, row in members.sequences.items()},
        fusion="fusion",
        members=(*members.sequences.values(), "fusion"),
        ensemble="hybrid",
    )
    steps += [score(scores, settings.refinement, given)]
    return System(
        name="hybrid",
        title="Hybrid",
        streams=streams,
        steps=tuple(steps),
        output="scores",
        rows=report_rows(members),
        embedding="fusion",
    )


def report_rows(members: Members) -> dict[str, Row]:
    """Rows of the report, in the order of the table."""
    rows = {}
    for stream, row in members.encoders.items():
        rows[row] = Row(members.label(row, stream), (stream,))
    for stream, row in members.sequences.items():
        rows[row] = Row(members.label(row, stream), (stream,), (stream,))
    everything, ordered = members.streams, tuple(members.sequences)
    rows["fusion"] = Row(members.fusion_label(), everything)
    rows["hybrid"] = Row(f"Hybrid (mean of {members.averaged})", everything, ordered)
    return rows | {name: Row(label, everything, ordered) for name, label in REFINED_LABELS.items()}

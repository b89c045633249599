"""Hybrid: CNNs, LSTMs and a regularized fusion network (Jiang et al., section III)."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.steps.embed import embed
from pipelines.steps.fit import fit_encoder, fit_sequence
from pipelines.steps.fuse import fuse, search
from pipelines.steps.given import Given
from pipelines.steps.score import ScoreSet, score
from pipelines.steps.step import Row, Step, System
from pipelines.systems.hybrid_settings import HybridSettings
from pipelines.systems.hybrid_streams import default_streams
from trainers.streams.settings import StreamSettings

REFINED = {
    "refined_confusion": "Hybrid + contextual refinement",
    "refined_dasd": "Hybrid + DASD",
    "refined_learned": "Hybrid + learned refinement",
}


def hybrid(settings: HybridSettings, given: Given) -> System:
    """Per stream an encoder and, where it has one, a sequence model; then fusion and ensemble."""
    streams = {name: one.track for name, one in settings.streams.items()}
    encoders, sequences = encoder_rows(settings.streams), sequence_rows(settings.streams)
    steps: list[Step] = []
    for name, one in settings.streams.items():
        row = next((row for row, stream in encoders.items() if stream == name), None)
        steps += [] if one.frozen else [fit_encoder(name, one, given)]
        steps += [embed(name, one, given, row=row)]
    steps += [
        fit_sequence(stream, settings.streams[stream], given, row=row)
        for row, stream in sequences.items()
    ]
    searched = settings.search.trials > 0
    steps += [search(streams, settings.search, settings.fusion, given)] if searched else []
    steps += [fuse(streams, settings.fusion, given, searched=searched)]
    scores = ScoreSet(
        streams=streams,
        encoders=encoders,
        sequences=sequences,
        fusion="fusion",
        members=(*sequences, "fusion"),
        ensemble="hybrid",
    )
    steps += [score(scores, settings.refinement, given)]
    return System(
        name="hybrid",
        title="Hybrid",
        streams=streams,
        steps=tuple(steps),
        output="scores",
        rows=report_rows(settings.streams),
        embedding="fusion",
    )


def encoder_rows(streams: Mapping[str, StreamSettings]) -> dict[str, str]:
    """Row -> stream, of the encoders that have class scores."""
    own = default_streams()
    return {
        f"{name}_{'cnn' if name in own else 'encoder'}": name
        for name, one in streams.items()
        if not one.frozen
    }


def sequence_rows(streams: Mapping[str, StreamSettings]) -> dict[str, str]:
    """Row -> stream, of the sequence models."""
    return {
        f"{name}_{'lstm' if _is_lstm(one) else 'sequence'}": name
        for name, one in streams.items()
        if one.sequence.present
    }


def report_rows(streams: Mapping[str, StreamSettings]) -> dict[str, Row]:
    """Rows of the report, in the order of the table."""
    kinds = {"cnn": "CNN", "encoder": "encoder", "lstm": "LSTM", "sequence": "sequence model"}
    encoders, sequences = encoder_rows(streams), sequence_rows(streams)
    rows = {}
    for row, stream in {**encoders, **sequences}.items():
        label = f"{stream.capitalize()} {kinds[row.removeprefix(f'{stream}_')]}"
        rows[row] = Row(label, (stream,), (stream,) if row in sequences else ())
    everything, ordered = tuple(streams), tuple(sequences.values())
    members = "LSTMs and fusion" if sequences else "fusion"
    rows["fusion"] = Row("Regularized fusion", everything)
    rows["hybrid"] = Row(f"Hybrid (mean of {members})", everything, ordered)
    return rows | {name: Row(label, everything, ordered) for name, label in REFINED.items()}


def _is_lstm(settings: StreamSettings) -> bool:
    return settings.sequence.model in ("lstm", "peephole")

"""Names of Hybrid's rows, in the report and in Tables I to III. Light: a command line is checked
by them before what the rows need is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.systems.hybrid_streams import default_streams
from pipelines.systems.rows import PrecisionFigure, Tables
from trainers.streams.settings import StreamSettings

FUSIONS = ("svm_ef", "svm_lf", "svm_mkl", "nn_ef", "nn_lf", "m_dbm", "rdnn")
WHOLES = ("hybrid", "hybrid_dasd", "hybrid_confusion", "hybrid_learned")
TABLES = Tables(
    titles={
        1: "Table I: networks and their mean scores",
        2: "Table II: fusion of the features",
        3: "Table III: the hybrid and its refinements",
    },
    reference="hybrid",
    noun="hybrid",
    figure=PrecisionFigure(4, "hybrid_confusion", "contextual refinement"),
)
KINDS = {"cnn": "CNN", "encoder": "encoder", "lstm": "LSTM", "sequence": "sequence model"}


@dataclass(frozen=True)
class Members:
    """Streams and the rows of their own scores.

    Args:
        streams: all streams.
        encoders: stream -> row of its encoder's scores; frozen encoders have none.
        sequences: stream -> row of its sequence model's scores.
    """

    streams: tuple[str, ...]
    encoders: Mapping[str, str]
    sequences: Mapping[str, str]

    @classmethod
    def of(cls, streams: Mapping[str, StreamSettings]) -> Members:
        """The members that settings of streams make."""
        published = default_streams()
        return cls(
            streams=tuple(streams),
            encoders={
                name: f"{name}_{'cnn' if name in published else 'encoder'}"
                for name, one in streams.items()
                if not one.frozen
            },
            sequences={
                name: f"{name}_{'sequence' if ':' in one.sequence.model else 'lstm'}"
                for name, one in streams.items()
                if one.sequence.present
            },
        )

    @property
    def pairs(self) -> tuple[str, ...]:
        """The streams that have both rows."""
        return tuple(name for name in self.sequences if name in self.encoders)


def label_of(row: str, stream: str) -> str:
    """A row's label in tables, such as ``Spatial CNN``."""
    return f"{stream.capitalize()} {KINDS[row.removeprefix(f'{stream}_')]}"


def row_names(members: Members) -> list[str]:
    """The names of `pipelines.systems.hybrid_tables.rows`, in its order."""
    first = []
    for s in members.streams:
        first += [rows[s] for rows in (members.encoders, members.sequences) if s in rows]
    pairs = members.pairs
    first += [f"{s}_cnn_lstm" for s in pairs]
    first += ["cnn_lstm"] * (len(pairs) > 1)
    first += [f"cnn_lstm_{s}" for s in members.encoders if s not in pairs and pairs]
    second = [*(f"{s}_svm" for s in members.streams), *FUSIONS, "fusion_plain", "fusion"]
    return [*first, *second, *WHOLES]

"""Names of Hybrid's rows, in the report and in Tables I to III. Light: a command line is checked
by them before what the rows need is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.systems.hybrid_streams import default_streams
from pipelines.systems.rows import PrecisionFigure, Tables

if TYPE_CHECKING:
    from pipelines.systems.hybrid_settings import HybridSettings

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
CNN, ENCODER, LSTM, SEQUENCE = "CNN", "encoder", "LSTM", "sequence model"
"""Kinds of networks, as labels call them."""
CONVOLUTIONAL = ("own:", "torchvision:")
TRANSFORMERS = ("torchvision:vit_", "torchvision:swin_", "torchvision:maxvit")
LSTMS = ("lstm", "peephole")


@dataclass(frozen=True)
class Members:
    """Streams and the rows of their own scores.

    Args:
        streams: all streams.
        encoders: stream -> row of its encoder's scores; frozen encoders have none.
        sequences: stream -> row of its sequence model's scores.
        kinds: row -> what labels call its network.
        fusion: name of the fusion.
    """

    streams: tuple[str, ...]
    encoders: Mapping[str, str]
    sequences: Mapping[str, str]
    kinds: Mapping[str, str]
    fusion: str

    @classmethod
    def of(cls, settings: HybridSettings) -> Members:
        """The members that settings make."""
        streams, published = settings.streams, default_streams()
        encoders = {
            name: f"{name}_{'cnn' if name in published else 'encoder'}"
            for name, one in streams.items()
            if not one.frozen
        }
        sequences = {
            name: f"{name}_{'lstm' if one.sequence.model in LSTMS else 'sequence'}"
            for name, one in streams.items()
            if one.sequence.present
        }
        kinds = {row: _encoder_kind(streams[name].encoder) for name, row in encoders.items()}
        kinds |= {
            row: LSTM if streams[name].sequence.model in LSTMS else SEQUENCE
            for name, row in sequences.items()
        }
        return cls(tuple(streams), encoders, sequences, kinds, settings.fusion.model)

    def label(self, row: str, stream: str) -> str:
        """Label of a stream's row, such as ``Spatial CNN``."""
        return f"{stream.capitalize()} {self.kinds[row]}"

    def pair_label(self, streams: Sequence[str]) -> str:
        """Label of the mean of both rows of some streams, such as ``CNN + LSTM (Spatial)``."""
        both = {(self.kinds[self.encoders[s]], self.kinds[self.sequences[s]]) for s in streams}
        kinds = both.pop() if len(both) == 1 else (ENCODER, SEQUENCE)
        return f"{' + '.join(kinds)} ({' & '.join(s.capitalize() for s in streams)})"

    def fusion_label(self, noun: str = "fusion") -> str:
        """Label of the fusion: ``Regularized fusion``, or the name of the user's function."""
        if self.fusion == "regularized":
            return f"Regularized {noun}"
        return f"Fusion ({self.fusion.rpartition(':')[2]})"

    @property
    def averaged(self) -> str:
        """What the ensemble averages, such as ``LSTMs and fusion``."""
        kinds = {self.kinds[row] for row in self.sequences.values()}
        if not kinds:
            return "fusion"
        return f"{f'{kinds.pop()}s' if len(kinds) == 1 else f'{SEQUENCE}s'} and fusion"

    @property
    def pairs(self) -> tuple[str, ...]:
        """The streams that have both rows."""
        return tuple(name for name in self.sequences if name in self.encoders)


def _encoder_kind(encoder: str) -> str:
    convolutional = encoder.startswith(CONVOLUTIONAL) and not encoder.startswith(TRANSFORMERS)
    return CNN if convolutional else ENCODER


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

"""Parts of a trained system: what each of its steps makes of one clip.

`trainers.predictor.Predictor` calls them in order; each is one file of a saved model. A package of
the user's own adds a part by deriving a class from `Part`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.embedding import Embedding, embed_clip
from trainers.encoders.encoder import Encoder
from trainers.encoders.inference import Precision, prepare
from trainers.ensemble import mean_scores
from trainers.fit.optimizer import place
from trainers.fusion import models
from trainers.fusion.contract import FusionModel
from trainers.network_files import network_from_bytes, network_to_bytes
from trainers.records import from_record, to_record
from trainers.refinement.fitted import FittedRefinement
from trainers.sequence.model import SequenceModel
from trainers.sequence.task import apply_sequence
from trainers.streams.clips import Media
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings
from trainers.streams.stream import Stream
from trainers.tensor_files import read_metadata, with_metadata

KEY = "part"
"""Where a part's file keeps its plain values, in the metadata of safetensors."""

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scored:
    """Class scores of one clip.

    Attributes:
        scores: float64 (C,) probabilities.
        embedding: float32 (E,) the clip's embedding that the scores are computed from; None where
            there is none.
    """

    scores: Scores
    embedding: NDArray[np.float32] | None = None


class Part(ABC):
    """A function of one clip that a trained step leaves.

    Attributes:
        stream: the stream whose samples the part cuts out of the clip; None for a part that only
            reads what other parts give.
    """

    stream: str | None = None

    @abstractmethod
    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Any | None:
        """The part's result for a clip; None where it has none.

        Args:
            clip: frames, flow and sound.
            inputs: part -> its result, for the parts that this one needs and that have a result.
        """

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The part as a safetensors file; `from_bytes` reads it."""

    @classmethod
    @abstractmethod
    def from_bytes(cls, data: bytes, name: str) -> Part:
        """The part that `to_bytes` wrote.

        Args:
            name: of the file, for errors.

        Raises:
            UserError, ValueError, KeyError: the file is damaged or holds something else.
        """

    def place(self, device: str, precision: Precision | None) -> None:
        """Prepares for calls on a device; called again where the device or precision changes.

        Args:
            device: of torch, "cpu" or "cuda".
            precision: ``fp32``, ``bf16`` or ``auto``; None: the precision of training.
        """
        return

    def check(self, classes: tuple[str, ...], multi_label: bool) -> None:
        """Raises ValueError where the part belongs to other classes."""
        return


class EmbedPart(Part):
    """Features of a stream's samples along the clip: an `Embedding`.

    Args:
        source: the stream, with the settings of its embedding.
        encoder: its encoder.
        multi_label: sigmoids instead of a softmax for the encoder's own scores.
    """

    def __init__(self, source: Stream, encoder: Encoder, *, multi_label: bool = False) -> None:
        self.stream = source.name
        self.source, self.encoder, self.multi_label = source, encoder.eval(), multi_label
        self._device, self._settings = "cpu", source.settings.embed
        self._running = self.encoder

    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Embedding | None:
        if self.source.count_positions(clip) == 0:
            return None
        return embed_clip(
            self._running,
            self.source,
            clip,
            self._device,
            settings=self._settings,
            multi_label=self.multi_label,
        )

    def place(self, device: str, precision: Precision | None) -> None:
        self._device, self._settings = device, self.source.settings.embed
        if precision is not None:
            self._settings = replace(self._settings, precision=precision)
        # Channels last, as where all clips are embedded.
        placed = place(self.encoder, torch.device(device))
        self._running = prepare(placed, device, self._settings.precision)

    def check(self, classes: tuple[str, ...], multi_label: bool) -> None:
        found = self.encoder.description["n_classes"]
        if found is not None:
            of = f"the encoder of {self.stream!r}"
            _check_targets(of, found, self.multi_label, len(classes), multi_label)

    def to_bytes(self) -> bytes:
        meta = {
            "stream": self.stream,
            "settings": to_record(self.source.settings),
            "multi_label": self.multi_label,
        }
        return network_to_bytes(self.encoder, meta)

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> EmbedPart:
        encoder, meta = network_from_bytes(data, name=name)
        if not isinstance(encoder, Encoder):
            raise ValueError(f"{name} holds no encoder")
        settings = from_record(StreamSettings, meta["settings"])
        return cls(make_stream(meta["stream"], settings), encoder, multi_label=meta["multi_label"])


class ScorePart(Part):
    """An encoder's own scores, averaged over the clip's test samples; needs one `EmbedPart`."""

    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Scored | None:
        (embedding,) = inputs.values()
        return None if embedding.scores is None else Scored(to_numpy(embedding.scores))

    def to_bytes(self) -> bytes:
        return write_values({})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> ScorePart:
        read_values(data)
        return cls()


class SequencePart(Part):
    """A sequence model over the features of one `EmbedPart`.

    Args:
        model: the model.
        multi_label: sigmoids instead of a softmax.
    """

    def __init__(self, model: SequenceModel, *, multi_label: bool = False) -> None:
        self.model, self.multi_label = model.eval(), multi_label

    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Scored | None:
        (found,) = inputs.values()
        scores, embedding = apply_sequence(self.model, found.features, multi_label=self.multi_label)
        return Scored(to_numpy(scores), embedding.numpy())

    def check(self, classes: tuple[str, ...], multi_label: bool) -> None:
        found = self.model.description["n_classes"]
        _check_targets("a sequence model", found, self.multi_label, len(classes), multi_label)

    def to_bytes(self) -> bytes:
        return network_to_bytes(self.model, {"multi_label": self.multi_label})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> SequencePart:
        model, meta = network_from_bytes(data, name=name)
        if not isinstance(model, SequenceModel):
            raise ValueError(f"{name} holds no sequence model")
        return cls(model, multi_label=meta["multi_label"])


class FusionPart(Part):
    """A fusion of the mean features of several parts.

    Args:
        model: the fusion.
        inputs: name of a feature in the model -> the part that gives it: an `EmbedPart`, whose
            features are averaged, or one that gives `Scored`, whose embedding is taken.

    Raises:
        ValueError: the model is over other features.
    """

    def __init__(self, model: FusionModel, inputs: Mapping[str, str]) -> None:
        if set(inputs) != set(model.widths):
            raise ValueError(
                f"the fusion is over {', '.join(model.widths)}, got {', '.join(inputs)}"
            )
        self.model, self.inputs = model, dict(inputs)

    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Scored | None:
        features, present = {}, {}
        for name, width in self.model.widths.items():
            vector = _clip_vector(inputs.get(self.inputs[name]))
            present[name] = np.array([vector is not None])
            features[name] = np.zeros((1, width), np.float32) if vector is None else vector[None]
        if not any(there.item() for there in present.values()):
            return None
        scores, embeddings = self.model.scores_and_embeddings(features, present)
        return Scored(scores[0].astype(np.float64), embeddings[0])

    def check(self, classes: tuple[str, ...], multi_label: bool) -> None:
        of = self.model
        _check_targets("the fusion", of.n_classes, of.multi_label, len(classes), multi_label)

    def to_bytes(self) -> bytes:
        return add_values(models.to_bytes(self.model), {"inputs": self.inputs})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> FusionPart:
        return cls(models.from_bytes(data, where=name), read_values(data)["inputs"])


def _clip_vector(result: Any) -> NDArray[np.float32] | None:
    """(D,) a fusion's input from a part's result."""
    if isinstance(result, Embedding):
        return result.features.mean(0).numpy()
    return result.embedding if isinstance(result, Scored) else None


class JoinPart(Part):
    """The mean of several parts' scores, refined where a refinement was fitted.

    Args:
        members: the parts whose scores are averaged, of a clip that lacks some those it has.
        refinement: of the members' probabilities; None leaves the mean as it is.

    Raises:
        ValueError: the refinement was fitted on others.
    """

    def __init__(
        self, members: tuple[str, ...], refinement: FittedRefinement | None = None
    ) -> None:
        self.members, self.refinement = tuple(members), refinement
        if refinement is not None and (
            refinement.given != "probabilities" or set(refinement.streams) != set(members)
        ):
            raise ValueError(
                f"the refinement takes {refinement.given} of {', '.join(refinement.streams)}; this "
                f"model has probabilities of {', '.join(members)}"
            )

    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Scored | None:
        scores = {name: inputs[name].scores[None] for name in self.members if name in inputs}
        if not scores:
            return None
        if self.refinement is not None:
            return Scored(self.refinement.predict_scores(scores)[0])
        return Scored(mean_scores(scores, {name: np.ones(1, bool) for name in scores})[0])

    def check(self, classes: tuple[str, ...], multi_label: bool) -> None:
        if self.refinement is None:
            return
        if self.refinement.classes != classes:
            raise ValueError(
                f"the refinement is of {len(self.refinement.classes)} classes "
                f"({', '.join(self.refinement.classes[:3])}, ...), not this model's {len(classes)}"
            )
        n = len(classes)
        _check_targets("the refinement", n, self.refinement.multi_label, n, multi_label)

    def to_bytes(self) -> bytes:
        values = {"members": list(self.members), "refined": self.refinement is not None}
        if self.refinement is None:
            return write_values(values)
        return add_values(self.refinement.to_bytes(), values)

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> JoinPart:
        values = read_values(data)
        refined = FittedRefinement.from_bytes(data, where=name) if values["refined"] else None
        return cls(tuple(values["members"]), refined)


def _check_targets(what: str, n_classes: int, multi: bool, wanted: int, wants_multi: bool) -> None:
    """Raises ValueError where a part was trained on other targets than its model."""
    if n_classes != wanted:
        raise ValueError(f"{what} has {n_classes} classes, the model has {wanted}")
    if multi != wants_multi:
        labels = "several labels" if multi else "one label"
        raise ValueError(f"{what} was trained on clips of {labels} each, the model was not")


def to_numpy(scores: Tensor) -> Scores:
    """Scores (C,) of any device as float64."""
    return scores.detach().cpu().numpy().astype(np.float64)


def write_values(
    values: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]] | None = None
) -> bytes:
    """A part's file: tensors, and plain values as JSON in its header."""
    return safetensors.numpy.save(dict(tensors or {}), metadata={KEY: json.dumps(dict(values))})


def add_values(data: bytes, values: Mapping[str, Any]) -> bytes:
    """A safetensors file with a part's plain values added to its header."""
    return with_metadata(data, {KEY: json.dumps(dict(values))})


def read_values(data: bytes) -> dict[str, Any]:
    """The plain values of a part's file.

    Raises:
        ValueError, KeyError: the file is damaged, or no part's.
    """
    return json.loads(read_metadata(data)[KEY])

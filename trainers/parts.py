"""Parts of a trained system: what each of its steps makes of one clip.

`trainers.predictor.Predictor` calls them in order; each is one file of a saved model. A package of
the user's own adds a part by deriving a class from `Part`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.embedding import Embedding, embed_clip
from trainers.encoders.backbones import StreamNetwork
from trainers.ensemble import mean_scores
from trainers.fit.optimizer import place
from trainers.fusion.network import FusionNetwork
from trainers.network_files import network_from_bytes, network_to_bytes
from trainers.records import from_record, to_record
from trainers.refinement.fitted import FittedRefinement
from trainers.sequence.recurrent import SequenceNetwork
from trainers.sequence.task import score_sequence
from trainers.settings import EmbeddingSettings
from trainers.streams.samples import Media, count_positions
from trainers.streams.settings import StreamSettings

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

    def place(self, device: str, precision: str | None) -> None:
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
        stream: the stream.
        network: its encoder.
        settings: how samples are cut.
        embedding: which samples are embedded.
        multi_label: sigmoids instead of a softmax for the encoder's own scores.
    """

    def __init__(
        self,
        stream: str,
        network: StreamNetwork,
        settings: StreamSettings,
        embedding: EmbeddingSettings,
        *,
        multi_label: bool = False,
    ) -> None:
        self.stream = stream
        self.network, self.settings, self.embedding = network.eval(), settings, embedding
        self.multi_label = multi_label
        self._device = "cpu"
        self._running: Any = self.network

    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Embedding | None:
        assert self.stream is not None
        if count_positions(clip, self.stream, self.settings) == 0:
            return None
        return embed_clip(
            self._running,
            clip,
            self.stream,
            self.settings,
            self._device,
            embedding=self.embedding,
            multi_label=self.multi_label,
        )

    def place(self, device: str, precision: str | None) -> None:
        self._device = device
        place(self.network, torch.device(device))
        bf16 = precision == "bf16" and device == "cpu"
        self._running = _Bfloat16(self.network) if bf16 else self.network

    def check(self, classes: tuple[str, ...], multi_label: bool) -> None:
        found = self.network.description["n_classes"]
        if found != len(classes) or multi_label != self.multi_label:
            raise ValueError(f"the encoder of {self.stream!r} has {found} classes, the model has "
                             f"{len(classes)}")  # fmt: skip

    def to_bytes(self) -> bytes:
        return network_to_bytes(
            self.network,
            {
                "stream": self.stream,
                "settings": to_record(self.settings),
                "embedding": to_record(self.embedding),
                "multi_label": self.multi_label,
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> EmbedPart:
        network, meta = network_from_bytes(data, name=name)
        if not isinstance(network, StreamNetwork):
            raise ValueError(f"{name} holds no encoder")
        return cls(
            meta["stream"],
            network,
            from_record(StreamSettings, meta["settings"]),
            from_record(EmbeddingSettings, meta["embedding"]),
            multi_label=meta["multi_label"],
        )


class _Bfloat16:
    """An encoder whose weights and activations are bfloat16."""

    def __init__(self, network: StreamNetwork) -> None:
        self._network = deepcopy(network).to(torch.bfloat16)

    def features(self, x: Tensor) -> Tensor:
        inputs = x.to(torch.bfloat16, memory_format=torch.channels_last)
        return self._network.features(inputs)

    def tail(self, features: Tensor) -> Tensor:
        return self._network.tail(features)


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
        network: the model.
        multi_label: sigmoids instead of a softmax.
    """

    def __init__(self, network: SequenceNetwork, *, multi_label: bool = False) -> None:
        self.network, self.multi_label = network.eval(), multi_label

    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Scored | None:
        (embedding,) = inputs.values()
        scores = score_sequence(self.network, embedding.features, multi_label=self.multi_label)
        return Scored(to_numpy(scores))

    def check(self, classes: tuple[str, ...], multi_label: bool) -> None:
        found = self.network.description["n_classes"]
        if found != len(classes) or multi_label != self.multi_label:
            raise ValueError(f"a sequence model has {found} classes, the model {len(classes)}")

    def to_bytes(self) -> bytes:
        return network_to_bytes(self.network, {"multi_label": self.multi_label})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> SequencePart:
        network, meta = network_from_bytes(data, name=name)
        if not isinstance(network, SequenceNetwork):
            raise ValueError(f"{name} holds no sequence model")
        return cls(network, multi_label=meta["multi_label"])


class FusionPart(Part):
    """A fusion network over the mean features of several parts.

    Args:
        network: the network.
        inputs: name of a feature in the network -> the part that gives it: an `EmbedPart`, whose
            features are averaged, or one that gives `Scored`, whose embedding is taken.
    """

    def __init__(self, network: FusionNetwork, inputs: Mapping[str, str]) -> None:
        if set(inputs) != set(network.widths):
            raise ValueError(
                f"the fusion network is over {', '.join(network.widths)}, got {', '.join(inputs)}"
            )
        self.network, self.inputs = network.eval(), dict(inputs)

    def __call__(self, clip: Media, inputs: Mapping[str, Any]) -> Scored | None:
        features, present = {}, {}
        for name, width in self.network.widths.items():
            vector = _clip_vector(inputs.get(self.inputs[name]))
            present[name] = torch.tensor([vector is not None])
            features[name] = torch.zeros(1, width) if vector is None else vector[None]
        if not any(there.item() for there in present.values()):
            return None
        scores, embeddings = self.network.scores_and_embeddings(features, present)
        return Scored(scores[0].astype(np.float64), embeddings[0])

    def check(self, classes: tuple[str, ...], multi_label: bool) -> None:
        if self.network.n_classes != len(classes) or self.network.multi_label != multi_label:
            raise ValueError(f"{len(classes)} classes, fusion of {self.network.n_classes}")

    def to_bytes(self) -> bytes:
        return add_values(self.network.to_bytes(), {"inputs": self.inputs})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> FusionPart:
        return cls(FusionNetwork.from_bytes(data), read_values(data)["inputs"])


def _clip_vector(result: Any) -> Tensor | None:
    """(D,) what a fusion sees of a part's result."""
    if isinstance(result, Embedding):
        return result.features.mean(0)
    if isinstance(result, Scored) and result.embedding is not None:
        return torch.from_numpy(result.embedding)
    return None


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
        if self.refinement.multi_label != multi_label:
            raise ValueError("only one of refinement and model has several labels per clip")

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
    metadata = {**read_metadata(data), KEY: json.dumps(dict(values))}
    return safetensors.numpy.save(safetensors.numpy.load(data), metadata=metadata)


def read_values(data: bytes) -> dict[str, Any]:
    """The plain values of a part's file.

    Raises:
        ValueError, KeyError: the file is damaged, or no part's.
    """
    return json.loads(read_metadata(data)[KEY])


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, whose JSON header follows its length in 8 bytes.

    Raises:
        ValueError: the file is too short, or its header is not JSON.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("the file is too short")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {})

"""From clips to embeddings: an encoder's features along a clip, and its mean scores."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from actors.artifact import ArtifactReader
from actors.errors import MediaError, UserError
from actors.media.sampling import uniform_positions
from actors.storage import Storage
from trainers.encoders.encoder import Encoder
from trainers.encoders.inference import compute, lay_out, prepare
from trainers.fit.optimizer import place
from trainers.network_files import load_network
from trainers.settings import EmbeddingSettings
from trainers.streams.clips import Media
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings
from trainers.streams.stream import Stream
from trainers.tensor_files import read_metadata

_KEY = "multiclue"


@dataclass(frozen=True)
class Embedding:
    """What a stream's encoder makes of a clip.

    Attributes:
        features: float32 (T, F) at T positions in the order of time.
        scores: float32 (C,), mean softmax (multi-label: sigmoid) over the test samples; None where
            the encoder is frozen and has no classifier.
        times: float32 (T,), seconds at which each position begins.
        metadata: plain values kept with it.
    """

    features: Tensor
    scores: Tensor | None
    times: Tensor
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As one safetensors file."""
        tensors = {"features": self.features, "times": self.times}
        if self.scores is not None:
            tensors["scores"] = self.scores
        return safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            {_KEY: json.dumps(self.metadata)},
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "embedding") -> Embedding:
        """Reads what `to_bytes` wrote.

        Raises:
            UserError: it is something else, or damaged.
        """
        try:
            tensors = safetensors.torch.load(data)
            metadata = json.loads(read_metadata(data)[_KEY])
            return cls(tensors["features"], tensors.get("scores"), tensors["times"], metadata)
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{name} is no embedding ({error!r}); remove it and embed the clips again"
            ) from error


def read_embedding(place: str) -> Embedding:
    """Reads an embedding from a path or URI."""
    storage, name = Storage.locate(place)
    return Embedding.from_bytes(storage.read_bytes(name), name=place)


@torch.no_grad()
def embed_clip(
    encoder: Encoder,
    stream: Stream,
    clip: Media,
    device: str | torch.device = "cpu",
    *,
    settings: EmbeddingSettings | None = None,
    multi_label: bool = False,
) -> Embedding:
    """Features at evenly spaced positions and the mean score over the test samples.

    The test samples are chosen from the positions of the features where these are at least as
    many (or are all there are), so that the encoder sees nothing twice.

    Args:
        encoder: in evaluation mode, on `device`; see `trainers.encoders.inference.prepare`.
        stream: how samples are cut from the clip.
        clip: the clip's artifact; it must have the stream's track.
        device: cpu or cuda.
        settings: which samples, and the precision; None: the stream's own.
        multi_label: sigmoid scores.
    """
    wanted = settings or stream.settings.embed
    n = stream.count_positions(clip)
    if n == 0:
        raise MediaError("no_samples", f"the stream {stream.name!r} has no sample of the clip")
    steps, tests = embedding_positions(n, wanted)
    if encoder.tail is None:
        tests = []
    positions = sorted({*steps, *tests})
    features, logits = [], []
    with compute(device, wanted.precision, half=wanted.half_precision):
        for first in range(0, len(positions), wanted.batch_size):
            part = positions[first : first + wanted.batch_size]
            samples = stream.crop(stream.cut(clip, part), encoder.specification)
            inputs = stream.normalize(samples.to(device), encoder.specification)
            found = encoder.features(lay_out(inputs, wanted.precision))
            features.append(found.float().cpu())
            if encoder.tail is not None:
                logits.append(encoder.tail(found).float())
    row = {position: i for i, position in enumerate(positions)}
    return Embedding(
        torch.cat(features)[[row[p] for p in steps]],
        _mean_scores(logits, [row[p] for p in tests], multi_label),
        stream.times(clip, steps),
        {"stream": stream.name, "positions": n},
    )


def _mean_scores(logits: list[Tensor], rows: list[int], multi_label: bool) -> Tensor | None:
    if not logits:
        return None
    scores = [(x.sigmoid() if multi_label else x.softmax(-1)).cpu() for x in logits]
    return torch.cat(scores)[rows].mean(0)


def embedding_positions(n: int, settings: EmbeddingSettings) -> tuple[list[int], list[int]]:
    """Positions of the feature sequence, each once, and of the test samples, of n there are."""
    steps = uniform_positions(n=n, count=min(n, settings.max_steps))
    if len(steps) == n or len(steps) >= settings.test_samples:
        among = uniform_positions(n=len(steps), count=settings.test_samples)
        return steps, [steps[i] for i in among]
    return steps, uniform_positions(n=n, count=settings.test_samples)


class ClipEmbedder:
    """Embeds clips one by one; made once per actor, the encoder is loaded once.

    Args:
        network: where the encoder is; see `trainers.network_files.save_network`.
        name: its file there.
        stream: the stream's name.
        settings: the stream's, as in fitting.
        output: where embeddings go, each under its artifact's file name.
        multi_label: sigmoid scores.
        device: ``auto`` takes a GPU that this process sees.

    Raises:
        UserError: the file holds another kind of network.
    """

    def __init__(
        self,
        network: Storage,
        name: str,
        stream: str,
        settings: StreamSettings,
        output: Storage,
        *,
        multi_label: bool = False,
        device: str = "auto",
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded, _ = load_network(network, name)
        if not isinstance(loaded, Encoder):
            raise UserError(f"{network.path(name)} is a sequence model; give a stream's encoder")
        placed = place(loaded, torch.device(device))
        self._encoder = prepare(placed, device, settings.embed.precision)
        self._stream = make_stream(stream, settings)
        self._output, self._multi_label, self._device = output, multi_label, device

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embeds the clip of a row with ``id`` and ``artifact`` and says where the result is."""
        began = time.perf_counter()
        clip = ArtifactReader.open(row["artifact"])
        result = embed_clip(
            self._encoder, self._stream, clip, self._device, multi_label=self._multi_label
        )
        name = row.get("name") or PurePosixPath(row["artifact"]).name
        self._output.write_bytes(name, result.to_bytes())
        return {
            "id": row["id"],
            "stream": self._stream.name,
            "embedding": self._output.path(name),
            "steps": len(result.features),
            "width": result.features.shape[1],
            "seconds": time.perf_counter() - began,
        }

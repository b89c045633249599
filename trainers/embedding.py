"""From clips to embeddings: a stream network's features along a clip, and its mean scores."""

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
from actors.errors import UserError
from actors.media.sampling import uniform_positions
from actors.storage import Storage
from actors.streams import AUDIO, SPATIAL
from trainers.encoders.backbones import StreamNetwork
from trainers.fit.optimizer import place
from trainers.network_files import load_network
from trainers.settings import EmbeddingSettings
from trainers.streams.samples import Media, count_positions, crop_samples, cut, normalize
from trainers.streams.settings import StreamSettings

_KEY = "multiclue"


@dataclass(frozen=True)
class Embedding:
    """What a stream's network makes of a clip.

    Attributes:
        features: float32 (T, F), fc6 at T positions in the order of time.
        scores: float32 (C,), mean softmax (multi-label: sigmoid) over the test samples.
        times: float32 (T,), seconds at which each position begins.
        metadata: plain values kept with it.
    """

    features: Tensor
    scores: Tensor
    times: Tensor
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As one safetensors file."""
        tensors = {"features": self.features, "scores": self.scores, "times": self.times}
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
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
            return cls(tensors["features"], tensors["scores"], tensors["times"], metadata)
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
    network: StreamNetwork,
    reader: Media,
    stream: str,
    settings: StreamSettings,
    device: str | torch.device = "cpu",
    *,
    embedding: EmbeddingSettings | None = None,
    multi_label: bool = False,
) -> Embedding:
    """Features at evenly spaced positions and the mean score over the test samples.

    The test samples are chosen from the positions of the features where these are at least as
    many (or are all there are), so that the network sees nothing twice.

    Args:
        network: in evaluation mode, on `device`.
        reader: the clip's artifact; it must have the stream.
    """
    wanted = embedding or EmbeddingSettings()
    n = count_positions(reader, stream, settings)
    steps, tests = embedding_positions(n, wanted)
    positions = sorted({*steps, *tests})
    features, scores = [], []
    for first in range(0, len(positions), wanted.batch_size):
        part = positions[first : first + wanted.batch_size]
        samples = crop_samples(cut(reader, stream, settings, part), stream, settings)
        inputs = normalize(samples.to(device), stream, settings)
        with autocast(device, enabled=wanted.half_precision):
            found = network.features(inputs)
            logits = network.tail(found).float()
        features.append(found.float().cpu())
        scores.append((logits.sigmoid() if multi_label else logits.softmax(-1)).cpu())
    row = {position: i for i, position in enumerate(positions)}
    return Embedding(
        torch.cat(features)[[row[p] for p in steps]],
        torch.cat(scores)[[row[p] for p in tests]].mean(0),
        position_times(reader, stream, steps),
        {"stream": stream, "positions": n},
    )


def embedding_positions(n: int, settings: EmbeddingSettings) -> tuple[list[int], list[int]]:
    """Positions of the feature sequence, each once, and of the test samples, of n there are."""
    steps = uniform_positions(n=n, count=min(n, settings.max_steps))
    if len(steps) == n or len(steps) >= settings.test_samples:
        among = uniform_positions(n=len(steps), count=settings.test_samples)
        return steps, [steps[i] for i in among]
    return steps, uniform_positions(n=n, count=settings.test_samples)


def position_times(reader: Media, stream: str, positions: list[int]) -> Tensor:
    """Seconds from the clip's start at which positions begin, float32 (n,)."""
    metadata: dict[str, Any] = getattr(reader, "metadata", {})
    if stream == AUDIO:
        rate = float(reader.spectrogram_rate or 1.0)
    else:
        every = metadata.get("frame_every", 1) if stream == SPATIAL else 1
        rate = float(metadata.get("fps") or 1.0) / every
    return torch.tensor(positions, dtype=torch.float32) / rate


def autocast(device: str | torch.device, *, enabled: bool) -> torch.autocast:
    """Half precision on a GPU (bf16 where it has it, else fp16); nothing on a CPU."""
    kind = torch.device(device).type
    half = enabled and kind == "cuda"
    dtype = torch.bfloat16 if not half or torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast(kind, dtype=dtype, enabled=half)


class ClipEmbedder:
    """Embeds clips one by one; made once per actor, the network is loaded once.

    Args:
        network: where the network is; see `trainers.network_files.save_network`.
        name: its file there.
        stream: spatial, motion or audio.
        settings: how samples are cut, as in fitting.
        embedding: what is taken of a clip.
        output: where embeddings go, each under its artifact's file name.
        multi_label: sigmoid scores.
        device: ``auto`` takes a GPU that this process sees.
    """

    def __init__(
        self,
        network: Storage,
        name: str,
        stream: str,
        settings: StreamSettings,
        embedding: EmbeddingSettings,
        output: Storage,
        *,
        multi_label: bool = False,
        device: str = "auto",
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded, _ = load_network(network, name)
        if not isinstance(loaded, StreamNetwork):
            raise UserError(f"{network.path(name)} is a sequence model; give a stream's network")
        self._network = place(loaded, torch.device(device)).eval()
        self._stream, self._settings, self._embedding = stream, settings, embedding
        self._output, self._multi_label, self._device = output, multi_label, device

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Embeds the clip of a row with ``id`` and ``artifact`` and says where the result is."""
        began = time.perf_counter()
        reader = ArtifactReader.open(row["artifact"])
        result = embed_clip(
            self._network,
            reader,
            self._stream,
            self._settings,
            self._device,
            embedding=self._embedding,
            multi_label=self._multi_label,
        )
        name = row.get("name") or PurePosixPath(row["artifact"]).name
        self._output.write_bytes(name, result.to_bytes())
        return {
            "id": row["id"],
            "stream": self._stream,
            "embedding": self._output.path(name),
            "steps": len(result.features),
            "width": result.features.shape[1],
            "seconds": time.perf_counter() - began,
        }

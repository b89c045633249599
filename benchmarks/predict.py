#!/usr/bin/env python3
"""How long the prediction of one clip takes, in seconds by part.

    python benchmarks/predict.py CLIP [--flow fast] [--precision auto] [--repeats 3] [--threads 2]

Hybrid with its published streams and sizes, random weights and 101 classes. Two ways, taking
turns: the plain one (flow on one thread, the artifact packed and read, encoders in fp32 and
contiguous), and the one that `pipelines/predict.py` goes (the clip in memory, flow on all threads,
encoders channels last and in the precision asked for). The first turn of each is not counted. The
table has each part's median, the last line everything as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402, I001
import torch  # noqa: E402
from actors.artifact import ArtifactReader, pack  # noqa: E402
from actors.extract_settings import ExtractSettings  # noqa: E402
from actors.extraction import extract_clip  # noqa: E402
from actors.flow import get_engine  # noqa: E402
from pipelines.systems.hybrid_streams import default_streams  # noqa: E402
from trainers.encoders.factory import build_encoder  # noqa: E402
from trainers.fusion.network import FusionNetwork  # noqa: E402
from trainers.parts import (  # noqa: E402
    EmbedPart,
    FusionPart,
    JoinPart,
    Part,
    ScorePart,
    SequencePart,
)
from trainers.predictor import Decision, NamedPart, Predictor  # noqa: E402
from trainers.sequence.factory import build_sequence_model  # noqa: E402
from trainers.settings import FusionSettings  # noqa: E402
from trainers.streams.kinds import make_stream  # noqa: E402
from trainers.streams.settings import StreamSettings  # noqa: E402

CLASSES = 101


class Timed(Part):
    """A part that notes the seconds of its calls."""

    def __init__(self, name: str, part: Part, seconds: dict[str, float]) -> None:
        self.stream, self._name, self._part, self._seconds = part.stream, name, part, seconds

    def __call__(self, clip: Any, inputs: Mapping[str, Any]) -> Any | None:
        began = time.perf_counter()
        result = self._part(clip, inputs)
        self._seconds[self._name] = time.perf_counter() - began
        return result

    def place(self, device: str, precision: Any) -> None:
        self._part.place(device, precision)

    def to_bytes(self) -> bytes:
        return self._part.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Part:
        raise NotImplementedError


class TimedClip:
    """A clip that notes the seconds in which flow is found, or decoded."""

    def __init__(self, clip: Any, seconds: dict[str, float]) -> None:
        self._clip, self._seconds = clip, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)

    def flow(self, indices: Any) -> Any:
        began = time.perf_counter()
        fields = self._clip.flow(indices)
        self._seconds["flow"] = time.perf_counter() - began
        return fields


def stream_parts(name: str, settings: StreamSettings) -> list[NamedPart]:
    """Encoder, its scores, and the sequence model where the stream has one; random weights."""
    stream = make_stream(name, settings)
    chosen = replace(settings.encoder_settings, weights="none")
    encoder = build_encoder(chosen, in_channels=stream.channels, n_classes=CLASSES)
    needs = (f"{name}.embed",)
    parts = [NamedPart(needs[0], EmbedPart(stream, encoder)), NamedPart(name, ScorePart(), needs)]
    if settings.sequence.present:
        model = build_sequence_model(
            settings.sequence, feature_dim=encoder.feature_dim, n_classes=CLASSES
        )
        parts.append(NamedPart(f"{name}.sequence", SequencePart(model), needs))
    return parts


def make_hybrid(extract: ExtractSettings) -> Predictor:
    """Hybrid with its published sizes."""
    streams = default_streams()
    parts = [part for name, one in streams.items() for part in stream_parts(name, one)]
    inputs = {name: f"{name}.embed" for name in streams}
    widths = {
        one.part.stream: one.part.encoder.feature_dim
        for one in parts
        if isinstance(one.part, EmbedPart) and one.part.stream is not None
    }
    fusion = FusionPart(FusionNetwork(widths, CLASSES, FusionSettings()), inputs)
    members = (*(one.name for one in parts if one.name.endswith(".sequence")), "fusion")
    parts += [
        NamedPart("fusion", fusion, tuple(inputs.values())),
        NamedPart("hybrid", JoinPart(members), members),
    ]
    return Predictor(
        system="hybrid",
        title="Hybrid",
        classes=tuple(f"class {i}" for i in range(CLASSES)),
        multi_label=False,
        extract=extract,
        streams={name: one.track for name, one in streams.items()},
        parts=tuple(parts),
        output="hybrid",
        embedding="fusion",
    )


class Ways:
    """The two ways to predict one clip.

    Args:
        clip: path of a video.
        flow: method of the flow.
        precision: of the encoders in the fast way.
    """

    def __init__(self, clip: str, flow: str, precision: Any) -> None:
        self.clip, self.precision = clip, precision
        self.seconds: dict[str, float] = {}
        made = make_hybrid(ExtractSettings(flow_method=flow))  # type: ignore[arg-type]
        self.encoders = [one.part.encoder for one in made.parts if isinstance(one.part, EmbedPart)]
        timed = (replace(p, part=Timed(p.name, p.part, self.seconds)) for p in made.parts)
        self.predictor = replace(made, parts=tuple(timed))
        self.engine = get_engine(made.extract.chosen_flow)

    def plain(self) -> Decision:
        """Through a packed artifact, in fp32."""
        self.predictor.place("cpu", "fp32")
        for encoder in self.encoders:
            encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        began = time.perf_counter()
        extracted = extract_clip(
            self.clip,
            settings=self.predictor.extract,
            tracks=self.predictor.tracks,
            flow=self.engine,
        )
        reader = ArtifactReader.open(pack(extracted))
        self.seconds["decode"] = time.perf_counter() - began
        return self.predictor.decide(TimedClip(reader, self.seconds))  # type: ignore[arg-type]

    def fast(self) -> Decision:
        """In memory."""
        self.predictor.place("cpu", self.precision)
        began = time.perf_counter()
        with self.predictor.read(self.clip) as clip:
            self.seconds["decode"] = time.perf_counter() - began
            return self.predictor.decide(TimedClip(clip, self.seconds))  # type: ignore[arg-type]

    def measure(self, way: Callable[[], Decision]) -> tuple[dict[str, float], Decision]:
        """Seconds by part, ``flow`` taken out of the part that asks for it."""
        self.seconds.clear()
        self.predictor._placed = None  # the other way may have moved the encoders
        self.predictor.place("cpu", self.precision)
        began = time.perf_counter()
        decision = way()
        total = time.perf_counter() - began
        seconds = {**self.seconds, "total": total}
        if "motion.embed" in seconds:
            seconds["motion.embed"] -= seconds["flow"]
        return seconds, decision


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def show(plain: Mapping[str, float], fast: Mapping[str, float]) -> None:
    """The table of seconds by part."""
    print(f"{'':20}{'plain':>10}{'fast':>10}")
    for name in ("decode", "flow", *(n for n in plain if n not in ("decode", "flow"))):
        print(f"{name:20}{plain.get(name, 0):10.2f}{fast.get(name, 0):10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("--flow", default="fast", choices=("exact", "fast"))
    parser.add_argument("--precision", default="auto", choices=("fp32", "bf16", "auto"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    ways = Ways(asked.clip, asked.flow, asked.precision)
    turns: dict[str, list[dict[str, float]]] = {"plain": [], "fast": []}
    for turn in range(asked.repeats + 1):
        plain, one = ways.measure(ways.plain)
        fast, two = ways.measure(ways.fast)
        if turn:
            turns["plain"].append(plain)
            turns["fast"].append(fast)
    figures = {name: medians(found) for name, found in turns.items()}
    show(figures["plain"], figures["fast"])
    print(
        json.dumps(
            {
                **figures,
                "times_as_fast": figures["plain"]["total"] / figures["fast"]["total"],
                "cosine_of_embeddings": cosine(one.embedding, two.embedding),
                "largest_difference": float(abs(one.probabilities - two.probabilities).max()),
                **{name: getattr(asked, name) for name in ("clip", "flow", "precision")},
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()

"""A trained system as one object: the path of a video in, class probabilities out.

Neither Ray nor MLflow is needed. `trainers.model_files` saves and loads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.artifact import ArtifactReader
from actors.errors import MediaError, UserError, nearest
from actors.extract_settings import ExtractSettings
from actors.flow import FlowEngine, get_engine
from actors.flow.choice import RAFT
from actors.flow.raft import RAFTEngine
from actors.in_memory import ClipInMemory, read_clip
from actors.tracks import FLOW, TRACKS
from trainers.encoders.inference import Precision
from trainers.parts import JoinPart, Part, Scored, Scores
from trainers.refinement.fitted import FittedRefinement


@dataclass(frozen=True, eq=False)
class Decision:
    """A system's answer for one clip.

    Attributes:
        probabilities: float64 (C,), sum 1, or one probability per class if multi-label.
        shares: stream that the clip has -> its share of the best class, sum 1; see
            `Predictor.decide`.
        scores: part -> float64 (C,), for every part that gives class scores.
        embedding: float32 (E,) the clip's embedding; empty where the system names none.
    """

    probabilities: Scores
    shares: dict[str, float]
    scores: dict[str, Scores]
    embedding: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ClipPrediction:
    """The prediction for one video; one of `decision` and `error` is None.

    Attributes:
        path: as it was given.
        decision: None for a video that can't be used.
        absent: stream that the clip does not have -> the reason.
        error: (kind, message) of a video that can't be used.
    """

    path: str
    decision: Decision | None = None
    absent: dict[str, str] = field(default_factory=dict)
    error: tuple[str, str] | None = None


@dataclass(frozen=True)
class NamedPart:
    """A part, its name, and the parts before it whose results it reads."""

    name: str
    part: Part
    needs: tuple[str, ...] = ()


@dataclass
class Predictor:
    """The parts of a trained system, in order.

    Args:
        system: the system's name.
        title: the system's name for people.
        classes: C names, in the order of the scores.
        multi_label: whether classes are judged one by one.
        extract: how the clips of its training were extracted.
        streams: stream -> the track that it sees.
        parts: each after those that it needs.
        output: the part whose scores are the answer.
        embedding: the part whose embedding is given with the answer, or None.
        rows: part -> its label in tables.
        facts: more to keep with the model (versions, fingerprints), as JSON knows it.
        raft_weights: content of a safetensors file, the weights of RAFT where flow is found by it;
            None: those that `extract` names.

    Raises:
        ValueError: the parts, the streams and the classes do not fit together.
    """

    system: str
    title: str
    classes: tuple[str, ...]
    multi_label: bool
    extract: ExtractSettings
    streams: Mapping[str, str]
    parts: tuple[NamedPart, ...]
    output: str
    embedding: str | None = None
    rows: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    raft_weights: bytes | None = None

    def __post_init__(self) -> None:
        self._check_streams()
        self._check_parts()
        self._check_targets()
        self._engines: dict[str, FlowEngine] = {}
        self._placed: tuple[str, Precision | None] | None = None

    def _check_streams(self) -> None:
        for stream, track in self.streams.items():
            if track not in TRACKS:
                raise ValueError(f"stream {stream!r} is of the unknown track {track!r}")
        for one in self.parts:
            if one.part.stream is not None and one.part.stream not in self.streams:
                raise ValueError(
                    f"part {one.name!r} is of the stream {one.part.stream!r}; the streams are "
                    f"{', '.join(self.streams)}"
                )

    def _check_targets(self) -> None:
        for one in self.parts:
            try:
                one.part.check(self.classes, self.multi_label)
            except ValueError as error:
                raise ValueError(f"part {one.name!r}: {error}") from error

    def _check_parts(self) -> None:
        before: set[str] = set()
        for one in self.parts:
            if one.name in before:
                raise ValueError(f"two parts are named {one.name!r}")
            if not set(one.needs) <= before:
                raise ValueError(f"part {one.name!r} needs {one.needs}, not all of them before it")
            before.add(one.name)
        for name in (self.output, self.embedding):
            if name is not None and name not in before:
                raise ValueError(f"there is no part {name!r}{nearest(name, before)}")

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks that the streams see."""
        return tuple(track for track in TRACKS if track in self.streams.values())

    def predict(
        self, paths: Iterable[str], *, device: str = "cpu", precision: Precision | None = None
    ) -> list[ClipPrediction]:
        """One prediction per path, in order; see `predict_clip`."""
        return [self.predict_clip(path, device=device, precision=precision) for path in paths]

    def predict_clip(
        self, path: str, *, device: str = "cpu", precision: Precision | None = None
    ) -> ClipPrediction:
        """Predicts one video; a file that can't be used gives a prediction with the reason.

        Args:
            path: the video.
            device: "cpu", "cuda", or "auto" for a GPU if there is one, with the flow on the CPU
                where its kernels can't run there.
            precision: of the encoders: ``fp32``, ``bf16`` or ``auto``; None: that of training.

        Raises:
            UserError: flow can't be found on the device named.
        """
        self.place(device, precision)
        try:
            with self.read(path, device=device) as clip:
                missing = clip.metadata["absent"]
                absent = {
                    s: missing[track] for s, track in self.streams.items() if track in missing
                }
                return ClipPrediction(path=path, decision=self.decide(clip), absent=absent)
        except MediaError as error:
            return ClipPrediction(path=path, error=(error.kind, error.message))

    def place(self, device: str = "cpu", precision: Precision | None = None) -> None:
        """Moves the parts to a device; nothing is done where they are there."""
        wanted = pick_device(device), precision
        if wanted != self._placed:
            for one in self.parts:
                one.part.place(*wanted)
            self._placed = wanted

    def read(self, path: str, *, device: str = "cpu") -> ClipInMemory:
        """Decodes what the streams see of a video.

        Raises:
            MediaError: the video has none of it.
            UserError: flow can't be found on the device named.
        """
        return read_clip(
            path,
            settings=self.extract,
            tracks=self.tracks,
            flow=self._engine(device),
            threads=torch.get_num_threads(),
        )

    def _engine(self, device: str) -> FlowEngine | None:
        """What finds flow on a device, made once; None where no stream sees flow."""
        if FLOW not in self.tracks:
            return None
        if device not in self._engines:
            chosen = self.extract.chosen_flow
            if isinstance(chosen, RAFT):
                self._engines[device] = RAFTEngine(
                    chosen, pick_device(device), weights=self.raft_weights
                )
            else:
                threads = torch.get_num_threads()
                self._engines[device] = get_engine(chosen, device, threads)
        return self._engines[device]

    def decide(self, clip: ClipInMemory | ArtifactReader) -> Decision:
        """The system's answer for a clip.

        A stream's share is by how much the best class's probability would fall if the clip did not
        have that stream, over the sum of these falls. Falls below zero count as zero; where
        nothing falls (each stream would do alone) the shares are equal.

        Raises:
            MediaError: the system gives no scores for what the clip has.
        """
        if self._placed is None:
            self.place()
        results = self._walk(clip)
        whole = results[self.output]
        if whole is None:
            raise MediaError(
                "no_scores", f"{self.title} needs more than the clip has ({', '.join(clip.tracks)})"
            )
        here = self._present(results)
        winner = int(whole.scores.argmax())
        falls = []
        for stream in here if len(here) > 1 else ():
            rest = self._walk(clip, hidden=stream, known=results)[self.output]
            falls.append(whole.scores[winner] - (0.0 if rest is None else rest.scores[winner]))
        scored = {name: one.scores for name, one in results.items() if isinstance(one, Scored)}
        return Decision(whole.scores, _shares(here, falls), scored, self._embedding(results))

    def _present(self, results: Mapping[str, Any]) -> list[str]:
        """The streams that some part had samples of."""
        seen = {one.part.stream for one in self.parts if results[one.name] is not None}
        return [stream for stream in self.streams if stream in seen]

    def _embedding(self, results: Mapping[str, Any]) -> NDArray[np.float32]:
        found = None if self.embedding is None else results[self.embedding]
        if found is None or found.embedding is None:
            return np.zeros(0, np.float32)
        return found.embedding

    def _walk(
        self,
        clip: ClipInMemory | ArtifactReader,
        hidden: str | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Part -> its result, None where it has none.

        Args:
            hidden: a stream to leave out.
            known: results without anything hidden; what does not depend on the hidden stream is
                taken from them.
        """
        affected = self._depending_on(hidden) if known is not None else None
        results: dict[str, Any] = {}
        for one in self.parts:
            if known is not None and affected is not None and one.name not in affected:
                results[one.name] = known[one.name]
            else:
                results[one.name] = self._call(one, clip, results, hidden)
        return results

    def _call(
        self,
        one: NamedPart,
        clip: ClipInMemory | ArtifactReader,
        results: Mapping[str, Any],
        hidden: str | None,
    ) -> Any | None:
        stream = one.part.stream
        if stream is not None and (stream == hidden or self.streams[stream] not in clip.tracks):
            return None
        inputs = {need: results[need] for need in one.needs if results[need] is not None}
        return None if one.needs and not inputs else one.part(clip, inputs)

    def _depending_on(self, stream: str | None) -> set[str]:
        """The parts that see a stream, and all that need them."""
        found: set[str] = set()
        for one in self.parts:
            if one.part.stream == stream or found & set(one.needs):
                found.add(one.name)
        return found

    def with_refinement(self, refinement: FittedRefinement) -> Predictor:
        """The same system with another refinement of its scores.

        Raises:
            ValueError: the refinement belongs to other scores or classes, or the system's
                output is no ensemble.
        """
        (output,) = (one for one in self.parts if one.name == self.output)
        if not isinstance(output.part, JoinPart):
            raise ValueError(f"{self.title} has no ensemble whose scores could be refined")
        other = replace(output, part=JoinPart(output.part.members, refinement))
        parts = tuple(other if one is output else one for one in self.parts)
        return replace(self, parts=parts)


def _shares(streams: list[str], falls: list[float]) -> dict[str, float]:
    positive = np.maximum(falls, 0)
    total = positive.sum()
    if total <= 0:
        return dict.fromkeys(streams, 1 / len(streams))
    return {s: float(fall / total) for s, fall in zip(streams, positive, strict=True)}


def pick_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def refined(predictor: Predictor, content: bytes) -> Predictor:
    """A predictor with the refinement of a file instead of its own.

    Raises:
        UserError: the refinement can't be read, or does not belong to the model.
    """
    try:
        return predictor.with_refinement(FittedRefinement.from_bytes(content))
    except ValueError as error:
        raise UserError(f"this model can't use it: {error}") from error

"""The trained ensemble as one object: a video's path in, class probabilities out.

A folder holds it: ``hybrid.json`` and one safetensors file per network. Nothing is pickled, and
neither Ray nor MLflow is needed to load it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from actors.artifact import ArtifactReader, pack
from actors.errors import MediaError, UserError
from actors.extract_settings import ExtractSettings
from actors.extraction import extract_clip
from actors.flow import FlowEngine, get_engine
from actors.flow.choice import RAFT
from actors.flow.raft import RAFTEngine, raft_bytes
from actors.storage import Storage
from actors.streams import MOTION, STREAMS, TRACK_OF
from trainers.embedding import Embedding, embed_clip
from trainers.encoders.backbones import StreamNetwork
from trainers.ensemble import mean_scores
from trainers.fusion.network import FusionNetwork
from trainers.network_files import network_from_bytes, network_to_bytes
from trainers.records import from_record, to_record
from trainers.refinement.fitted import FittedRefinement, contextual, read_record
from trainers.sequence.recurrent import SequenceNetwork
from trainers.sequence.task import score_sequence
from trainers.settings import EmbeddingSettings, RefinementSettings
from trainers.streams.settings import StreamSettings

FORMAT = 1
FACTS = "hybrid.json"
FUSION = "fusion.safetensors"
REFINEMENT = "refinement.safetensors"
RAFT_WEIGHTS = "raft.safetensors"

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Decision:
    """What the ensemble makes of one clip's embeddings."""

    probabilities: Scores
    """(C,) after refinement; sum 1, or one probability per class if multi-label."""
    shares: dict[str, float]
    """Stream -> its share of the winning class, sum 1: see `Hybrid.decide`."""
    systems: dict[str, Scores]
    """``spatial_cnn``, ``spatial_lstm``, ..., ``fusion``, ``hybrid``, ``refined`` -> (C,)."""
    embedding: NDArray[np.float32]
    """(H,) the fusion layer's activation: what the streams say together."""


@dataclass(frozen=True, eq=False)
class ClipPrediction:
    """One video's row; of ``decision`` and ``error`` one is None."""

    path: str
    """As it was given."""
    decision: Decision | None = None
    """None for a video that can't be used."""
    absent: dict[str, str] = field(default_factory=dict)
    """Stream that the clip does not have -> why."""
    error: tuple[str, str] | None = None
    """(kind, message) of a video that can't be used."""


@dataclass
class Hybrid:
    """The networks of all streams and what joins them.

    Args:
        classes: C names, in the order of the scores.
        multi_label: whether classes are judged one by one.
        extract: how the clips it was trained on were extracted.
        stream_settings: stream -> how its samples are cut; its keys are the streams, in order.
        embedding: how many of a clip's samples are looked at.
        cnns: stream -> network.
        lstms: stream -> network over the stream's features; streams without one are left out.
        fusion: the network over the streams' mean features.
        refinement: of the probabilities of the LSTMs and the fusion network, or None.
        refinement_settings: how it was chosen.
        facts: whatever else is worth keeping (versions, fingerprints), as JSON knows it.
        raft_weights: where RAFT finds the flow, the content of a safetensors file; None: those that
            the settings name. A saved ensemble carries them.
    """

    classes: tuple[str, ...]
    multi_label: bool
    extract: ExtractSettings
    stream_settings: Mapping[str, StreamSettings]
    embedding: EmbeddingSettings
    cnns: Mapping[str, StreamNetwork]
    lstms: Mapping[str, SequenceNetwork]
    fusion: FusionNetwork
    refinement: FittedRefinement | None = None
    refinement_settings: RefinementSettings = RefinementSettings()
    facts: Mapping[str, Any] = field(default_factory=dict)
    raft_weights: bytes | None = None

    def __post_init__(self) -> None:
        streams = tuple(s for s in STREAMS if s in self.stream_settings)
        if set(self.cnns) != set(streams) or set(self.fusion.streams) != set(streams):
            raise ValueError(
                f"settings of {sorted(streams)}, CNNs of {sorted(self.cnns)} and a fusion network "
                f"of {sorted(self.fusion.streams)} are not of the same streams"
            )
        if not set(self.lstms) <= set(streams):
            raise ValueError(f"LSTMs of {sorted(self.lstms)}, but streams {sorted(streams)}")
        if self.fusion.n_classes != len(self.classes):
            raise ValueError(f"{len(self.classes)} classes, fusion of {self.fusion.n_classes}")
        if self.refinement is not None:
            self._check_refinement(self.refinement)
        self.streams: tuple[str, ...] = streams
        self._engines: dict[str, FlowEngine] = {}
        for network in (*self.cnns.values(), *self.lstms.values(), self.fusion):
            network.eval()

    @property
    def members(self) -> tuple[str, ...]:
        """The systems that the ensemble averages."""
        return (*(f"{stream}_lstm" for stream in self.lstms), "fusion")

    def _check_refinement(self, refinement: FittedRefinement) -> None:
        if refinement.classes != self.classes:
            raise ValueError(
                f"the refinement is of {len(refinement.classes)} classes "
                f"({', '.join(refinement.classes[:3])}, ...), not this model's {len(self.classes)}"
            )
        if refinement.given != "probabilities" or set(refinement.streams) != set(self.members):
            raise ValueError(
                f"the refinement takes {refinement.given} of {', '.join(refinement.streams)}; this "
                f"model has probabilities of {', '.join(self.members)}"
            )
        if refinement.multi_label != self.multi_label:
            raise ValueError("only one of refinement and model has several labels per clip")

    def _engine(self, device: str) -> FlowEngine | None:
        """What finds flow on a device, made once; None where no stream wants flow."""
        if MOTION not in self.streams:
            return None
        if device not in self._engines:
            chosen = self.extract.chosen_flow
            if isinstance(chosen, RAFT):
                self._engines[device] = RAFTEngine(
                    chosen, pick_device(device), weights=self.raft_weights
                )
            else:
                self._engines[device] = get_engine(chosen, device)
        return self._engines[device]

    def predict(self, paths: Iterable[str], *, device: str = "cpu") -> list[ClipPrediction]:
        """One row per path, in order; see `predict_clip`."""
        return [self.predict_clip(path, device=device) for path in paths]

    def predict_clip(self, path: str, *, device: str = "cpu") -> ClipPrediction:
        """Looks at one video; a file that can't be used gives a row with the reason.

        Args:
            path: the video.
            device: "cpu", "cuda", or "auto" for a GPU if there is one, with the flow on the CPU
                where its kernels can't run there.

        Raises:
            UserError: flow can't be found on the device named.
        """
        try:
            clip = extract_clip(
                path,
                settings=self.extract,
                tracks=[TRACK_OF[stream] for stream in self.streams],
                flow=self._engine(device),
            )
        except MediaError as error:
            return ClipPrediction(path=path, error=(error.kind, error.message))
        reader = ArtifactReader.open(pack(clip))
        embeddings = self.embed(reader, device=pick_device(device))
        missing = reader.metadata["absent"]
        return ClipPrediction(
            path=path,
            decision=self.decide(embeddings),
            absent={s: missing[TRACK_OF[s]] for s in self.streams if TRACK_OF[s] in missing},
        )

    def embed(self, reader: ArtifactReader, *, device: str = "cpu") -> dict[str, Embedding]:
        """The embeddings of the streams that the clip has."""
        return {
            stream: embed_clip(
                self.cnns[stream].to(device),
                reader,
                stream,
                self.stream_settings[stream],
                device,
                embedding=self.embedding,
                multi_label=self.multi_label,
            )
            for stream in self.streams
            if TRACK_OF[stream] in reader.tracks
        }

    def decide(self, embeddings: Mapping[str, Embedding]) -> Decision:
        """Joins the streams that a clip has.

        A stream's share is by how much the winning class's probability would fall if the clip did
        not have that stream, over the sum of these falls. Falls below zero count as zero; where
        nothing falls (each stream would do alone) the shares are equal.

        Args:
            embeddings: stream -> embedding, at least one.

        Raises:
            ValueError: no stream, or one that the ensemble does not know.
        """
        here = [stream for stream in self.streams if stream in embeddings]
        if not here or len(here) != len(embeddings):
            raise ValueError(f"embeddings of {sorted(embeddings)}, streams {self.streams}")
        # Row 0: the clip as it is. Row 1 + i: as if it lacked the i-th of several streams.
        lacking = [None, *here] if len(here) > 1 else [None]
        single = self._stream_systems(embeddings)
        fused, embedding = self._fuse(embeddings, lacking)
        scores, present = self._member_scores(single, fused, lacking)
        joined = mean_scores(scores, present)
        refined = joined if self.refinement is None else self._refine(scores, present)
        systems = {**single, "fusion": fused[0], "hybrid": joined[0]}
        if self.refinement is not None:
            systems["refined"] = refined[0]
        winner = int(refined[0].argmax())
        return Decision(
            probabilities=refined[0],
            shares=_shares(here, refined[0, winner] - refined[1:, winner]),
            systems=systems,
            embedding=embedding,
        )

    def _stream_systems(self, embeddings: Mapping[str, Embedding]) -> dict[str, Scores]:
        """Scores (C,) of each stream's CNN and LSTM."""
        systems = {
            f"{s}_cnn": _numpy(embeddings[s].scores) for s in self.streams if s in embeddings
        }
        for stream, network in self.lstms.items():
            if stream in embeddings:
                scores = score_sequence(
                    network, embeddings[stream].features, multi_label=self.multi_label
                )
                systems[f"{stream}_lstm"] = _numpy(scores)
        return systems

    def _fuse(
        self, embeddings: Mapping[str, Embedding], lacking: Sequence[str | None]
    ) -> tuple[Scores, NDArray[np.float32]]:
        """(rows, C) scores of the fusion network, and (H,) its activation for row 0."""
        features, present = {}, {}
        for stream, width in self.fusion.widths.items():
            there = stream in embeddings
            mean = embeddings[stream].features.mean(0) if there else torch.zeros(width)
            features[stream] = mean.expand(len(lacking), -1)
            present[stream] = torch.tensor([there and lack != stream for lack in lacking])
        scores, activations = self.fusion.scores_and_embeddings(features, present)
        return scores.astype(np.float64), activations[0]

    def _member_scores(
        self, single: Mapping[str, Scores], fused: Scores, lacking: Sequence[str | None]
    ) -> tuple[dict[str, Scores], dict[str, NDArray[np.bool_]]]:
        """Member -> (rows, C) scores, and (rows,) whether a row has them."""
        scores, present = {"fusion": fused}, {"fusion": np.ones(len(lacking), bool)}
        for stream in self.lstms:
            name = f"{stream}_lstm"
            if name in single:
                scores[name] = np.repeat(single[name][None], len(lacking), 0)
                present[name] = np.array([lack != stream for lack in lacking])
        return scores, present

    def _refine(
        self, scores: Mapping[str, Scores], present: Mapping[str, NDArray[np.bool_]]
    ) -> Scores:
        assert self.refinement is not None
        return self.refinement.predict_scores(
            {name: np.where(present[name][:, None], scores[name], np.nan) for name in scores}
        )

    def to_files(self) -> dict[str, bytes]:
        """File name -> content; what `from_files` takes."""
        files = {FACTS: json.dumps(self._record(), indent=1).encode()}
        files |= {f"{s}_cnn.safetensors": network_to_bytes(net) for s, net in self.cnns.items()}
        files |= {f"{s}_lstm.safetensors": network_to_bytes(net) for s, net in self.lstms.items()}
        files[FUSION] = self.fusion.to_bytes()
        if self.refinement is not None:
            files[REFINEMENT] = self.refinement.to_bytes()
        if isinstance(self.extract.chosen_flow, RAFT) and MOTION in self.streams:
            files[RAFT_WEIGHTS] = self.raft_weights or raft_bytes(self.extract.chosen_flow)
        return files

    def _record(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "classes": list(self.classes),
            "multi_label": self.multi_label,
            "streams": list(self.streams),
            "lstms": list(self.lstms),
            "extract": to_record(self.extract),
            "stream_settings": {s: to_record(x) for s, x in self.stream_settings.items()},
            "embedding": to_record(self.embedding),
            "refinement": to_record(self.refinement_settings),
            "facts": dict(self.facts),
        }

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "the model") -> Hybrid:
        """The ensemble from the contents of its files.

        Raises:
            UserError: a file is missing, damaged, or of another version.
        """
        try:
            record = json.loads(files[FACTS])
            if record["format"] != FORMAT:
                raise UserError(
                    f"{where} has format {record['format']}, this version reads {FORMAT}; "
                    "train it again, or use the version that made it"
                )
            settings = from_record(RefinementSettings, record["refinement"])
            return cls(
                classes=tuple(record["classes"]),
                multi_label=record["multi_label"],
                extract=from_record(ExtractSettings, record["extract"]),
                stream_settings={
                    s: from_record(StreamSettings, record["stream_settings"][s])
                    for s in record["streams"]
                },
                embedding=from_record(EmbeddingSettings, record["embedding"]),
                cnns=_networks(files, "cnn", record["streams"], StreamNetwork),
                lstms=_networks(files, "lstm", record["lstms"], SequenceNetwork),
                fusion=FusionNetwork.from_bytes(files[FUSION]),
                refinement=_refinement(files.get(REFINEMENT), record, settings),
                refinement_settings=settings,
                facts=record["facts"],
                raft_weights=files.get(RAFT_WEIGHTS),
            )
        except KeyError as error:
            raise UserError(f"{where} is incomplete: no {error.args[0]!r}") from error
        except (ValueError, safetensors.SafetensorError) as error:
            raise UserError(f"{where} is damaged: {error}") from error

    def save(self, folder: Storage | Path | str) -> None:
        """Writes the folder, ``hybrid.json`` last."""
        storage = folder if isinstance(folder, Storage) else Storage(folder)
        for name, content in reversed(self.to_files().items()):
            storage.write_bytes(name, content)

    @classmethod
    def load(cls, folder: Storage | Path | str) -> Hybrid:
        """Reads the folder that `save` wrote.

        Raises:
            UserError: there is none, or it can't be read.
        """
        storage = folder if isinstance(folder, Storage) else Storage(folder)
        return cls.from_files(read_files(storage), where=storage.path())


def read_files(storage: Storage) -> dict[str, bytes]:
    """The contents of a saved ensemble's files, to send to another process.

    Raises:
        UserError: there is no saved ensemble.
    """
    if not storage.exists(FACTS):
        raise UserError(f"{storage.path()} holds no model: there is no {FACTS}")
    names = [FACTS, *storage.names(".safetensors")]
    return {name: storage.read_bytes(name) for name in names}


def _refinement(
    content: bytes | None, record: Mapping[str, Any], settings: RefinementSettings
) -> FittedRefinement | None:
    """The refinement's file; in models of before it held the bare matrix R."""
    if content is None:
        return None
    if read_record(content) is not None:
        return FittedRefinement.from_bytes(content)
    return contextual(
        safetensors.numpy.load(content)["refinement"],
        streams=(*(f"{stream}_lstm" for stream in record["lstms"]), "fusion"),
        classes=tuple(record["classes"]),
        multi_label=record["multi_label"],
        normalize=settings.normalize,
    )


def _networks(files: Mapping[str, bytes], kind: str, streams: Iterable[str], of: type) -> dict:
    found = {}
    for stream in streams:
        name = f"{stream}_{kind}.safetensors"
        network, _ = network_from_bytes(files[name], name=name)
        if not isinstance(network, of):
            raise ValueError(f"{name} holds no {of.__name__}")
        found[stream] = network
    return found


def _shares(streams: Sequence[str], falls: Scores) -> dict[str, float]:
    if len(streams) == 1:
        return {streams[0]: 1.0}
    falls = np.maximum(falls, 0)
    total = falls.sum()
    if total <= 0:
        return dict.fromkeys(streams, 1 / len(streams))
    return {stream: float(fall / total) for stream, fall in zip(streams, falls, strict=True)}


def _numpy(values: Any) -> Scores:
    return torch.as_tensor(values).detach().cpu().numpy().astype(np.float64)


def pick_device(name: str) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"

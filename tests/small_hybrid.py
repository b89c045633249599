"""Hybrid with random weights and tiny clips to look at: what tests of prediction share."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from actors.extract_settings import ExtractSettings
from actors.flow import TVL1
from actors.tracks import FLOW, FRAMES, SOUND
from trainers.encoders.factory import build_encoder
from trainers.fusion.network import FusionNetwork
from trainers.parts import EmbedPart, FusionPart, JoinPart, ScorePart, SequencePart
from trainers.predictor import NamedPart, Predictor
from trainers.refinement.fitted import FittedRefinement, contextual
from trainers.sequence.factory import build_sequence_model
from trainers.settings import EmbeddingSettings, FusionSettings, SequenceSettings
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings

SPATIAL, MOTION, AUDIO = "spatial", "motion", "audio"
TRACK_OF = {SPATIAL: FRAMES, MOTION: FLOW, AUDIO: SOUND}
STREAMS = tuple(TRACK_OF)
FPS, RATE = 10, 16_000
WIDTH = 16
CLASSES = ("boxing", "clapping", "waving")


def make_hybrid(
    streams: tuple[str, ...] = STREAMS,
    *,
    classes: tuple[str, ...] = CLASSES,
    multi_label: bool = False,
    refined: bool = True,
    seed: int = 0,
) -> Predictor:
    """Random weights, the same for the same seed."""
    members = (*(f"{s}.sequence" for s in streams if s in (SPATIAL, MOTION)), "fusion")
    joined = [NamedPart("ensemble", JoinPart(members), members)]
    if refined:
        refinement = random_refinement(members, classes, multi_label=multi_label, seed=seed)
        joined.append(NamedPart("scores", JoinPart(members, refinement), members))
    inputs = {stream: f"{stream}.embed" for stream in streams}
    fusion = FusionNetwork(
        dict.fromkeys(streams, WIDTH),
        len(classes),
        FusionSettings(hidden=5),
        multi_label=multi_label,
        seed=seed,
    )
    return Predictor(
        system="hybrid",
        title="Hybrid",
        classes=classes,
        multi_label=multi_label,
        extract=ExtractSettings(
            short_side=32,
            codec="raw",
            flow=TVL1(scales=2, warps=1, outer_iterations=1, inner_iterations=5),
        ),
        streams={stream: TRACK_OF[stream] for stream in streams},
        parts=(
            *(p for s in streams for p in stream_parts(s, len(classes), multi_label, seed)),
            NamedPart("fusion", FusionPart(fusion, inputs), tuple(inputs.values())),
            *joined,
        ),
        output="scores" if refined else "ensemble",
        embedding="fusion",
        rows={"fusion": "regularized fusion"},
        facts={"data": "random weights"},
    )


def stream_parts(stream: str, n_classes: int, multi_label: bool, seed: int) -> list[NamedPart]:
    """A stream's encoder, its own scores, and a sequence model but for sound."""
    settings = StreamSettings(
        track=TRACK_OF[stream],
        encoder="own:vgg_small" if stream == SPATIAL else "own:cnn_m_small",
        weights="none",
        feature_dim=WIDTH,
        crop=32,
        stack=4,
        window_seconds=0.5,
        embed=EmbeddingSettings(max_steps=4, test_samples=3),
        sequence=SequenceSettings(hidden=(8, 6)),
    )
    source = make_stream(stream, settings)
    encoder = build_encoder(
        settings.encoder_settings, in_channels=source.channels, n_classes=n_classes, seed=seed
    )
    embed = EmbedPart(source, encoder, multi_label=multi_label)
    needs = (f"{stream}.embed",)
    parts = [NamedPart(needs[0], embed), NamedPart(f"{stream}.fit", ScorePart(), needs)]
    if stream in (SPATIAL, MOTION):
        model = build_sequence_model(
            settings.sequence, feature_dim=WIDTH, n_classes=n_classes, seed=seed + len(stream)
        )
        sequence = SequencePart(model, multi_label=multi_label)
        parts.append(NamedPart(f"{stream}.sequence", sequence, needs))
    return parts


def random_refinement(
    members: tuple[str, ...], classes: tuple[str, ...], *, multi_label: bool = False, seed: int = 0
) -> FittedRefinement:
    """By a matrix of random confusions."""
    rows = np.random.default_rng(seed).random((len(classes), len(classes))) + np.eye(len(classes))
    return contextual(
        rows / rows.sum(1, keepdims=True),
        streams=members,
        classes=classes,
        multi_label=multi_label,
        normalize=True,
    )


def join_of(predictor: Predictor) -> JoinPart:
    """The part whose scores are the answer."""
    return next(one.part for one in predictor.parts if one.name == predictor.output)


def write_clip(
    path: Path, *, pictures: bool = True, sound: bool = True, seconds: float = 0.8, seed: int = 0
) -> Path:
    """A moving square over noise, and a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as media:
        video = media.add_stream("libx264", rate=FPS) if pictures else None
        tone = media.add_stream("aac", rate=RATE, layout="mono") if sound else None
        if video is not None:
            video.width, video.height, video.pix_fmt = 48, 48, "yuv420p"
            for number in range(round(seconds * FPS)):
                picture = random.integers(0, 60, (48, 48, 3), np.uint8)
                picture[16:32, number : number + 16] = 200
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                media.mux(video.encode(frame))
            media.mux(video.encode(None))
        if tone is not None:
            times = np.arange(round(seconds * RATE)) / RATE
            samples = 0.3 * np.sin(2 * np.pi * (440 + 110 * seed) * times)
            sounding = av.AudioFrame.from_ndarray(
                samples.astype(np.float32)[None], format="fltp", layout="mono"
            )
            sounding.sample_rate, sounding.pts = RATE, 0
            media.mux(tone.encode(sounding))
            media.mux(tone.encode(None))
    return path


__all__ = [
    "AUDIO",
    "CLASSES",
    "MOTION",
    "SPATIAL",
    "join_of",
    "make_hybrid",
    "random_refinement",
    "write_clip",
]

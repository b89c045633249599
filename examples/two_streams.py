"""A system of your own: per stream an encoder and a sequence model, then fusion and their mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.steps.embed import embed
from pipelines.steps.fit import fit_encoder, fit_sequence
from pipelines.steps.fuse import fuse
from pipelines.steps.given import Given
from pipelines.steps.score import ScoreSet, score
from pipelines.steps.step import Row, System
from trainers.settings import FusionSettings, RefinementSettings
from trainers.streams.settings import StreamSettings


@dataclass(frozen=True)
class TwoStreamsSettings:
    """Groups of settings, by the names of the steps."""

    streams: Mapping[str, StreamSettings] = field(default_factory=dict)
    fusion: FusionSettings = FusionSettings()
    refinement: RefinementSettings = RefinementSettings(method="none")


def two_streams(settings: TwoStreamsSettings, given: Given) -> System:
    """``--system examples.two_streams:two_streams``."""
    tracks = {name: one.track for name, one in settings.streams.items()}
    steps = [fit_encoder(n, one, given) for n, one in settings.streams.items() if not one.frozen]
    steps += [embed(name, one, given) for name, one in settings.streams.items()]
    ordered = {n: one for n, one in settings.streams.items() if one.sequence.present}
    steps += [fit_sequence(name, one, given, row=name) for name, one in ordered.items()]
    steps += [fuse(tracks, settings.fusion, given, searched=False)]
    scores = ScoreSet(tracks, {}, {n: n for n in ordered}, "fusion", (*ordered, "fusion"))
    steps += [score(scores, settings.refinement, given)]
    rows = {name: Row(name, (name,), (name,)) for name in ordered}
    rows |= {"fusion": Row("Fusion", tuple(tracks)), "ensemble": Row("Mean", tuple(tracks))}
    return System("two_streams", "Two streams", tracks, tuple(steps), "scores", rows, "fusion")

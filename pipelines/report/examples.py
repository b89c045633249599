"""A few test clips for the report: what the streams see of them, and every row's best classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from trainers.streams.stream import make_stream

from actors.artifact import ArtifactReader
from actors.media.sampling import uniform_positions
from pipelines.report import ExampleClip, Preview
from pipelines.steps.evaluate import REFINED, Evaluated
from pipelines.steps.extract import ExtractedClip, Extraction
from pipelines.steps.job import Job
from pipelines.steps.step import System

EXAMPLES = 6


def example_clips(
    job: Job, system: System, extraction: Extraction, evaluated: Evaluated
) -> list[ExampleClip]:
    """Test clips spread evenly over the test split, wrong ones among them if there are any."""
    table, test = evaluated.table, evaluated.table.rows("test")
    if not len(test):
        return []
    guesses = evaluated.scores[REFINED].scores[test].argmax(1)
    true = table.part(test).targets.dense()
    wrong = test[true[np.arange(len(test)), guesses] == 0]
    chosen = [int(row) for row in _spread(wrong, EXAMPLES // 3)]
    rest = [row for row in test if row not in chosen]
    chosen += [int(row) for row in _spread(rest, EXAMPLES - len(chosen))]
    clips = {clip.video.id: clip for clip in extraction.clips}
    return [
        _example(job, system, extraction, clips[str(table.ids[row])], row, evaluated)
        for row in sorted(chosen)
    ]


def _spread(rows: Sequence[int] | NDArray[np.intp], count: int) -> list[int]:
    positions = uniform_positions(n=len(rows), count=min(count, len(rows))) if len(rows) else []
    return [rows[i] for i in positions]


def _example(
    job: Job,
    system: System,
    extraction: Extraction,
    clip: ExtractedClip,
    row: int,
    evaluated: Evaluated,
) -> ExampleClip:
    classes, last = job.manifest.classes, evaluated.chosen
    opinions = {}
    for name in system.rows:
        one = evaluated.scores.get(name)
        if one is None or not one.present[row] or (name.startswith("refined_") and name != last):
            continue
        best = np.argsort(-one.scores[row], kind="stable")[:3]
        opinions[name] = [(classes[i], float(one.scores[row, i])) for i in best]
    top, probability = opinions[last][0]
    reader = ArtifactReader.open(extraction.storage.path(clip.artifact))
    return ExampleClip(
        id=clip.video.id,
        truth=clip.video.labels,
        predicted=top,
        probability=probability,
        previews=_previews(job, system, reader, clip),
        opinions=opinions,
    )


def _previews(
    job: Job, system: System, reader: ArtifactReader, clip: ExtractedClip
) -> list[Preview]:
    """A picture per kind of preview; streams that share one share the picture."""
    kinds: dict[str, list[str]] = {}
    for name in system.streams:
        stream = make_stream(name, job.settings.streams[name])
        kinds.setdefault(stream.preview_kind, []).append(name)
    previews = []
    for kind, names in kinds.items():
        stream = make_stream(names[0], job.settings.streams[names[0]])
        there = system.streams[names[0]] in clip.tracks
        picture = stream.preview(reader) if there else None
        previews.append(Preview(kind=kind, streams=tuple(names), picture=picture))
    return previews

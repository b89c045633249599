"""Example test clips for the report: what the streams see, and every row's best classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.artifact import ArtifactReader
from actors.media.sampling import uniform_positions
from pipelines.report import ExampleClip, StreamPicture
from pipelines.steps.evaluate import Evaluated
from pipelines.steps.extract import ExtractedClip, Extraction
from pipelines.steps.job import Job
from pipelines.steps.step import System
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings

EXAMPLES = 6
FRAMES = 4
"""Pictures of a stream that has several."""


def example_clips(
    job: Job, system: System, extraction: Extraction, evaluated: Evaluated
) -> list[ExampleClip]:
    """Test clips spread evenly over the test split, up to a third of them misclassified."""
    table, answer = evaluated.table, evaluated.final.scores[evaluated.final.answer]
    test = table.rows("test")
    test = test[answer.present[test]]
    if not len(test):
        return []
    guesses = answer.scores[test].argmax(1)
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
    classes, final = job.manifest.classes, evaluated.final
    others = [name for name in final.refinements if name != final.chosen]
    opinions = {}
    for name in evaluated.rows:
        one = final.scores.get(name)
        if one is None or not one.present[row] or name in others:
            continue
        best = np.argsort(-one.scores[row], kind="stable")[:3]
        opinions[name] = [(classes[i], float(one.scores[row, i])) for i in best]
    answer = final.scores[final.answer].scores[row]
    guess = int(np.argsort(-answer, kind="stable")[0])
    reader = ArtifactReader.open(extraction.storage.path(clip.artifact))
    return ExampleClip(
        id=clip.video.id,
        truth=clip.video.labels,
        predicted=classes[guess],
        probability=float(answer[guess]),
        previews=_previews(job, system, reader, clip),
        opinions=opinions,
    )


def _previews(
    job: Job, system: System, reader: ArtifactReader, clip: ExtractedClip
) -> list[StreamPicture]:
    """What the streams see; streams that cut the same samples from a track share a picture.

    A stream that the settings do not describe has none.
    """
    shared: dict[tuple[str, str], list[str]] = {}
    for name, track in system.streams.items():
        settings = job.settings.streams.get(name)
        if isinstance(settings, StreamSettings):
            shared.setdefault((track, settings.samples), []).append(name)
    previews = []
    for (track, _), names in shared.items():
        if track not in clip.tracks:
            previews.append(
                StreamPicture(kind="pictures", caption=track, streams=names, picture=None)
            )
            continue
        found = make_stream(names[0], job.settings.streams[names[0]]).preview(reader, FRAMES)
        previews.append(
            StreamPicture(
                kind=found.display, caption=found.caption, streams=names, picture=found.values
            )
        )
    return previews

#!/usr/bin/env python3
"""Job: one pass over each file gives its frames, flow fields and spectrogram.

    pipelines/extract.py --data PATH --format FORMAT [any setting]

Every video ends as an artifact or as a row of the `rejected` table. Artifacts are kept by file and
extraction settings, so other splits, folds and networks use them again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start  # goes on in the environment that has Ray
    from pipelines.cli.command_line import read_job  # isort: skip

    start("pipelines.extract", lambda: read_job(__doc__ or ""))

import pyarrow as pa

from actors.artifact import artifact_name
from actors.errors import UserError
from actors.extract_settings import ExtractSettings
from actors.extraction import ClipExtractor
from actors.flow.choice import RAFT
from actors.storage import Storage
from actors.streams import MOTION, STREAMS
from pipelines.cli.command_line import Asked
from pipelines.cli.launch import TooManyRejected
from pipelines.data import Video
from pipelines.steps.caching import StageResult, fingerprint, weights_stamp
from pipelines.steps.job import Job, open_job
from pipelines.steps.stream_check import check_streams

REJECTED_SCHEMA = pa.schema([(n, pa.string()) for n in ("id", "path", "stage", "kind", "message")])


@dataclass(frozen=True)
class ExtractedClip:
    """A usable video: its artifact, and what is known of it without opening it."""

    video: Video
    artifact: str
    streams: tuple[str, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Extraction:
    """What became of every video of the manifest.

    Args:
        fingerprint: of the settings that the artifacts were made by.
    """

    clips: tuple[ExtractedClip, ...]
    rejected: tuple[dict[str, str], ...]
    storage: Storage
    fingerprint: str


def extract(job: Job, *, fits_follow: bool = True) -> Extraction:
    """Extracts what has not been extracted yet, and checks that enough is left to train on.

    Args:
        fits_follow: start the workers of the fits meanwhile.

    Raises:
        TooManyRejected: more than `max_rejected_share` of the videos can't be used.
        UserError: a class has no usable training clip, or a chosen stream is nowhere to be found.
    """
    rows = [_row(video) for video in job.manifest.videos]
    begun = time.monotonic()
    mark, storage, known = _find(job, rows)
    if known is None:
        check_streams(job.manifest.videos, job.settings.chosen_streams, job.console)
    outcomes = known or _run(job, rows, storage, fits_follow)
    name = f"{fingerprint([row['name'] for row in rows])}.json"
    _tell(job, outcomes, storage.join("seconds"), name, time.monotonic() - begun)
    _tell_notes(job, outcomes)
    extraction = _collect(job, outcomes, storage, mark)
    _save_tables(job, extraction)
    _check_enough(job, extraction)
    return extraction


def extraction_key(settings: ExtractSettings) -> dict[str, Any]:
    """What artifacts depend on: of the ways to find flow, the parameters of the chosen one alone.

    A named schedule thus stands for its parameters, and a file of weights for what is in it.
    """
    key = {f.name: getattr(settings, f.name) for f in fields(settings)}
    del key["flow_method"], key["raft"]
    key["flow"] = settings.chosen_flow
    if isinstance(settings.chosen_flow, RAFT):
        key["weights"] = weights_stamp(settings.chosen_flow.weights)
    return key


def _row(video: Video) -> dict[str, str]:
    name = artifact_name(f"{video.id}@{video.stamp()}")
    return {"id": video.id, "path": video.path, "name": name}


def _find(job: Job, rows: list[dict[str, str]]) -> tuple[str, Storage, list[dict[str, Any]] | None]:
    """Fingerprint and folder of the artifacts, and all outcomes in the order of the rows if they
    are known; None: something is left to do.

    Artifacts that were made with more streams hold these as well, so they serve where they are
    complete: `--streams` can be narrowed without extracting again.
    """
    from actors.pool.ledger import Ledger

    chosen, key = job.settings.chosen_streams, extraction_key(job.settings.extract)
    others = [s for n in range(len(STREAMS) + 1) for s in combinations(STREAMS, n)]
    for streams in (chosen, *(s for s in others if set(s) > set(chosen))):
        mark = fingerprint(key, streams)
        storage = job.storage.join("artifacts", mark)
        known = Ledger(storage).settled(set(storage.names()))
        if all(row["name"] in known for row in rows):
            return mark, storage, [_narrowed(known[row["name"]], chosen) for row in rows]
    mark = fingerprint(key, chosen)
    return mark, job.storage.join("artifacts", mark), None


def _narrowed(outcome: dict[str, Any], streams: Sequence[str]) -> dict[str, Any]:
    """An outcome of before, as it is for these streams: of none of them, it is a rejection."""
    cached = outcome | {"cached": True}
    absent = outcome["facts"].get("absent", {}) if outcome["ok"] else {}
    if not outcome["ok"] or any(stream not in absent for stream in streams):
        return cached
    reasons = "; ".join(dict.fromkeys(absent[stream] for stream in streams))
    return cached | {"ok": False, "kind": "no_stream", "message": reasons}


def _run(
    job: Job, rows: list[dict[str, str]], storage: Storage, fits_follow: bool
) -> list[dict[str, Any]]:
    """All outcomes, in the order of the rows."""
    from actors.pool.run import PoolResources, run_pool

    job.board()
    if fits_follow:
        job.fit_pool()
    wanted = job.settings.resources
    resources = PoolResources.for_cluster(
        max_actors=wanted.extract_actors,
        gpus_per_actor=wanted.extract_gpus if MOTION in job.settings.chosen_streams else 0.0,
    )
    make_worker = partial(
        ClipExtractor,
        job.settings.extract,
        job.settings.chosen_streams,
        storage,
        "auto" if resources.gpus else "cpu",
        resources.gpus or 1.0,
    )
    pairs = 0

    def tell(done: int, total: int, outcome: dict[str, Any]) -> None:
        nonlocal pairs
        pairs += int(outcome["facts"].get("pairs", 0))
        seconds = time.monotonic() - progress.started
        progress.update(done, total, f"{pairs / max(seconds, 1e-6):.0f} flow pairs/s")

    with job.console.stage("extract", total=len(rows), unit="clips") as progress:
        return run_pool(
            rows,
            make_worker,
            storage=storage,
            resources=resources,
            on_row=tell,
        )


def _tell(
    job: Job, outcomes: list[dict[str, Any]], times: Storage, name: str, seconds: float
) -> None:
    """The stage's line; of clips that were extracted before, with the seconds that took."""
    cached = all(outcome.get("cached") for outcome in outcomes)
    if not cached:
        times.write_json(name, seconds)
    else:
        seconds = times.read_json(name) if times.exists(name) else 0.0
    bad = Counter(o["kind"] for o in outcomes if not o["ok"])
    text = f"{len(outcomes) - bad.total()} clips"
    if bad:
        text += f", {bad.total()} rejected ({', '.join(f'{n} {k}' for k, n in bad.most_common())})"
    result = StageResult("extract", "", times, {}, seconds, cached)
    job.note(result, items=len(outcomes), text=text)


def _tell_notes(job: Job, outcomes: list[dict[str, Any]]) -> None:
    """What workers have to say of how they worked, once each; of earlier jobs' clips too."""
    if MOTION not in job.settings.chosen_streams:  # the notes are of flow, which is not used then
        return
    notes = Counter(o["facts"]["note"] for o in outcomes if o["facts"].get("note"))
    for text, clips in notes.items():
        told = f"{text} ({clips} of {len(outcomes)} clips)"
        job.console.say(f"! {told}", markup=False)
        job.notes.append(told)


def _collect(job: Job, outcomes: list[dict[str, Any]], storage: Storage, mark: str) -> Extraction:
    clips, rejected = [], []
    for video, outcome in zip(job.manifest.videos, outcomes, strict=True):
        if outcome["ok"]:
            absent = outcome["facts"]["absent"]
            streams = tuple(s for s in job.settings.chosen_streams if s not in absent)
            clips.append(ExtractedClip(video, outcome["artifact"], streams, outcome["facts"]))
        else:
            rejected.append(
                {
                    "id": video.id,
                    "path": video.path,
                    "stage": "extract",
                    "kind": outcome["kind"],
                    "message": outcome["message"],
                }
            )
    return Extraction(tuple(clips), tuple(rejected), storage, mark)


def _save_tables(job: Job, extraction: Extraction) -> None:
    """The index of artifacts and the table of rejected videos, beside the report."""
    index = [
        {
            "id": clip.video.id,
            "path": clip.video.path,
            "labels": list(clip.video.labels),
            "split": clip.video.split,
            "group": clip.video.group,
            "artifact": extraction.storage.path(clip.artifact),
            "streams": list(clip.streams),
            "absent": "; ".join(f"{s}: {why}" for s, why in clip.facts["absent"].items()),
        }
        for clip in extraction.clips
    ]
    if index:
        job.files.write_table("index.parquet", pa.Table.from_pylist(index))
    rejected = pa.Table.from_pylist(list(extraction.rejected), schema=REJECTED_SCHEMA)
    job.files.write_table("rejected.parquet", rejected)


def _check_enough(job: Job, extraction: Extraction) -> None:
    bad, total = len(extraction.rejected), len(job.manifest.videos)
    if bad > job.settings.max_rejected_share * total:
        raise TooManyRejected(_too_many(job, extraction.rejected, total))
    trained = Counter(
        label for c in extraction.clips if c.video.split == "train" for label in c.video.labels
    )
    empty = [name for name in job.manifest.classes if not trained[name]]
    if empty:
        raise UserError(
            f"no usable training clip is left of {', '.join(map(repr, empty[:5]))}"
            f"{' and more' if len(empty) > 5 else ''}; the reasons are in "
            f"{job.files.path('rejected.parquet')}"
        )
    if not any(clip.video.split == "test" for clip in extraction.clips):
        raise UserError(
            f"no usable test clip is left; see {job.files.path('rejected.parquet')}, or choose "
            "other test clips with --splits"
        )
    for stream in job.settings.chosen_streams:
        if not any(stream in c.streams for c in extraction.clips if c.video.split == "train"):
            others = [other for other in job.settings.chosen_streams if other != stream]
            reasons = Counter(c.facts["absent"].get(stream, "") for c in extraction.clips)
            raise UserError(
                f"no training clip has the {stream} stream "
                f"({reasons.most_common(1)[0][0] or 'none extracted'}); "
                f"leave it out: --streams {','.join(others) or 'with other streams'}"
            )


def _too_many(job: Job, rejected: Sequence[dict[str, str]], total: int) -> str:
    kinds = Counter(row["kind"] for row in rejected).most_common(3)
    first = rejected[0]
    return (
        f"{len(rejected)} of {total} videos can't be used, more than the allowed share of "
        f"{job.settings.max_rejected_share:.0%}: "
        + ", ".join(f"{n} {kind}" for kind, n in kinds)
        + f" (such as {first['id']}: {first['message']}). All are listed in "
        f"{job.files.path('rejected.parquet')}; mend them, or raise --max_rejected_share"
    )


def main(asked: Asked) -> None:
    """Runs this step alone."""
    with open_job(asked.settings, asked.manifest) as job:
        extract(job, fits_follow=False)

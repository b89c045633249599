"""Extraction: one pass over each file gives its frames, flow fields and spectrogram.

Every video ends as an artifact or as a row of the `rejected` table. Artifacts are kept by file and
extraction settings, so other splits, folds and systems use them again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import combinations
from typing import Any

import pyarrow as pa

from actors.artifact import artifact_name
from actors.errors import UserError
from actors.extract_settings import ExtractSettings
from actors.extraction import ClipExtractor
from actors.flow.choice import RAFT
from actors.neutral import is_neutral
from actors.storage import Storage
from actors.tracks import FLOW, TRACKS
from pipelines.cli.launch import TooManyRejected
from pipelines.data import Video
from pipelines.steps.cluster import RAY_IMPORTS
from pipelines.steps.fingerprint import fingerprint, weights_stamp
from pipelines.steps.job import Job
from pipelines.steps.step import StepResult
from pipelines.steps.stream_check import check_streams

REJECTED_SCHEMA = pa.schema([(n, pa.string()) for n in ("id", "path", "stage", "kind", "message")])


@dataclass(frozen=True)
class ExtractedClip:
    """A usable video: its artifact and what is known of it without opening it.

    Args:
        artifact: its file's name in the extraction's storage.
        tracks: that it has.
        facts: of its extraction: counts, and the reasons for absent tracks.
    """

    video: Video
    artifact: str
    tracks: tuple[str, ...]
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
        UserError: a class has no usable training clip, or no training clip has a stream's track.
    """
    if job.extraction is None:
        job.extraction = _extract(job, fits_follow)
    return job.extraction


def _extract(job: Job, fits_follow: bool) -> Extraction:
    rows = [_row(video) for video in job.manifest.videos]
    begun = time.monotonic()
    mark, storage, known = _find(job, rows)
    if known is None:
        check_streams(job.manifest.videos, job.settings.streams, job.console)
    outcomes = known or _run(job, rows, storage, fits_follow)
    name = f"{fingerprint([row['name'] for row in rows])}.json"
    _show(job, outcomes, storage.join("seconds"), name, time.monotonic() - begun)
    _show_notes(job, outcomes)
    extraction = _collect(job, outcomes, storage, mark)
    _save_tables(job, extraction)
    _check_enough(job, extraction)
    return extraction


VERSION = 2
"""Increased when artifacts change."""


def extraction_key(settings: ExtractSettings) -> dict[str, Any]:
    """What artifacts depend on: of the ways to find flow, the parameters of the chosen one alone.

    A named schedule thus stands for its parameters, and a file of weights for what is in it.
    """
    kept = [f.name for f in fields(settings) if not is_neutral(f)]
    key: dict[str, Any] = {name: getattr(settings, name) for name in kept}
    del key["flow_method"], key["raft"]
    key["flow"] = settings.chosen_flow
    key["version"] = VERSION
    if isinstance(settings.chosen_flow, RAFT):
        key["weights"] = weights_stamp(settings.chosen_flow.weights)
    return key


def _row(video: Video) -> dict[str, str]:
    name = artifact_name(f"{video.id}@{video.stamp()}")
    return {"id": video.id, "path": video.path, "name": name}


def _find(job: Job, rows: list[dict[str, str]]) -> tuple[str, Storage, list[dict[str, Any]] | None]:
    """Fingerprint and folder of the artifacts, and all outcomes in the order of the rows if they
    are known; None: something is left to do.

    Artifacts that were made with more tracks hold these as well and are used where they are
    complete: streams can be left out without extracting again.
    """
    from actors.pool.ledger import Ledger

    chosen, key = job.settings.tracks, extraction_key(job.settings.extract)
    others = [some for n in range(len(TRACKS) + 1) for some in combinations(TRACKS, n)]
    for tracks in (chosen, *(some for some in others if set(some) > set(chosen))):
        mark = fingerprint(key, tracks)
        storage = job.storage.join("artifacts", mark)
        known = Ledger(storage).settled(set(storage.names()))
        if all(row["name"] in known for row in rows):
            return mark, storage, [_narrowed(known[row["name"]], chosen) for row in rows]
    mark = fingerprint(key, chosen)
    return mark, job.storage.join("artifacts", mark), None


def _narrowed(outcome: dict[str, Any], tracks: Sequence[str]) -> dict[str, Any]:
    """A known outcome reduced to some tracks; a clip that has none of them is rejected."""
    cached = outcome | {"cached": True}
    absent = outcome["facts"].get("absent", {}) if outcome["ok"] else {}
    if not outcome["ok"] or any(track not in absent for track in tracks):
        return cached
    reasons = "; ".join(dict.fromkeys(absent[track] for track in tracks))
    return cached | {"ok": False, "kind": "no_track", "message": reasons}


def _run(
    job: Job, rows: list[dict[str, str]], storage: Storage, fits_follow: bool
) -> list[dict[str, Any]]:
    """All outcomes, in the order of the rows."""
    with RAY_IMPORTS:
        from actors.pool.run import PoolResources, run_pool

    job.board()
    if fits_follow:
        job.fit_pool()
    wanted = job.settings.resources
    resources = PoolResources.for_cluster(
        max_actors=wanted.extract_actors,
        gpus_per_actor=wanted.extract_gpus if FLOW in job.settings.tracks else 0.0,
    )
    make_worker = partial(
        ClipExtractor,
        job.settings.extract,
        job.settings.tracks,
        storage,
        "auto" if resources.gpus else "cpu",
        resources.gpus or 1.0,
    )
    pairs = 0

    def progressed(done: int, total: int, outcome: dict[str, Any]) -> None:
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
            on_row=progressed,
        )


def _show(
    job: Job, outcomes: list[dict[str, Any]], times: Storage, name: str, seconds: float
) -> None:
    """Prints the step's line; for clips that were extracted earlier with the seconds it took."""
    cached = all(outcome.get("cached") for outcome in outcomes)
    if not cached:
        times.write_json(name, seconds)
    else:
        seconds = times.read_json(name) if times.exists(name) else 0.0
    bad = Counter(o["kind"] for o in outcomes if not o["ok"])
    text = f"{len(outcomes) - bad.total()} clips"
    if bad:
        text += f", {bad.total()} rejected ({', '.join(f'{n} {k}' for k, n in bad.most_common())})"
    result = StepResult("extract", "", times, {}, seconds, cached)
    job.note(result, items=len(outcomes), text=text)


def _show_notes(job: Job, outcomes: list[dict[str, Any]]) -> None:
    """Prints the workers' remarks on how they worked, each once; earlier jobs' clips included."""
    if FLOW not in job.settings.tracks:  # the notes are of flow, which is not used then
        return
    notes = Counter(o["facts"]["note"] for o in outcomes if o["facts"].get("note"))
    for text, clips in notes.items():
        note = f"{text} ({clips} of {len(outcomes)} clips)"
        job.console.say(f"! {note}", markup=False)
        job.notes.append(note)


def _collect(job: Job, outcomes: list[dict[str, Any]], storage: Storage, mark: str) -> Extraction:
    clips, rejected = [], []
    for video, outcome in zip(job.manifest.videos, outcomes, strict=True):
        if outcome["ok"]:
            absent = outcome["facts"]["absent"]
            tracks = tuple(track for track in job.settings.tracks if track not in absent)
            clips.append(ExtractedClip(video, outcome["artifact"], tracks, outcome["facts"]))
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
            "tracks": list(clip.tracks),
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
    for stream, settings in job.settings.streams.items():
        track = settings.track
        if not any(track in c.tracks for c in extraction.clips if c.video.split == "train"):
            others = [n for n, one in job.settings.streams.items() if one.track != track]
            reasons = Counter(c.facts["absent"].get(track, "") for c in extraction.clips)
            raise UserError(
                f"no training clip has the track {track!r} of the stream {stream!r} "
                f"({reasons.most_common(1)[0][0] or 'none extracted'}); "
                f"leave it out: --streams {','.join(others) or 'with streams of other tracks'}"
            )


def _too_many(job: Job, rejected: Sequence[dict[str, str]], total: int) -> str:
    kinds = Counter(row["kind"] for row in rejected).most_common(3)
    first = rejected[0]
    return (
        f"{len(rejected)} of {total} videos can't be used, more than the allowed share of "
        f"{job.settings.max_rejected_share:.0%}: "
        + ", ".join(f"{n} {kind}" for kind, n in kinds)
        + f" (such as {first['id']}: {first['message']}). All are listed in "
        f"{job.files.path('rejected.parquet')}; correct them, or raise --max_rejected_share"
    )

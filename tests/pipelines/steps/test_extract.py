"""The extraction step: earlier artifacts are used again and counted as cached."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.pool.ledger import Ledger, Notes
from actors.storage import Storage
from pipelines.cli.settings import parse_settings
from pipelines.data import Manifest, Video
from pipelines.steps import extract as step
from pipelines.steps.console import Console
from pipelines.steps.fingerprint import fingerprint
from pipelines.steps.job import Job

SILENT = {"sound": "the file has no sound"}


@pytest.fixture
def root(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


def make_job(root: Storage, streams: str, *more: str) -> Any:
    """As much of a job as the extraction looks at, of clips that have all been extracted."""
    settings = parse_settings("", ["--storage", root.path(), "--streams", streams, *more])
    videos = tuple(
        Video(f"{n}.mp4", f"/{n}.mp4", (("run", "walk")[n % 2],), split, f"g{n}")  # type: ignore
        for n, split in enumerate(["train"] * 4 + ["test"] * 2)
    )
    job = SimpleNamespace(
        settings=settings,
        storage=root,
        console=Console(),
        manifest=Manifest(videos, ("run", "walk"), False, "made"),
        files=root.join("runs"),
        timings=[],
        notes=[],
        extraction=None,
    )
    job.note = lambda *words, **named: Job.note(job, *words, **named)
    return job


def extracted(job: Any, absent: dict[int, dict[str, str]] | None = None, **more: Any) -> None:
    """Leaves what an extraction of the job's clips with its streams leaves, in 12.5 seconds."""
    key = step.extraction_key(job.settings.extract)
    folder = job.storage.join("artifacts", fingerprint(key, job.settings.tracks))
    ledger, notes = Ledger(folder), Notes(folder, "before")
    rows = [step._row(video) for video in job.manifest.videos]
    for n, row in enumerate(rows):
        facts = {"absent": (absent or {}).get(n, {}), **more}
        outcome = {"id": row["id"], "artifact": row["name"], "ok": True, "kind": "", "message": ""}
        ledger.add({**outcome, "seconds": 1.0, "facts": json.dumps(facts)}, notes)
        folder.write_bytes(row["name"], b"artifact")
    ledger.save(notes)
    name = f"{fingerprint([row['name'] for row in rows])}.json"
    folder.join("seconds").write_json(name, 12.5)


def test_fewer_streams_find_the_artifacts_of_more(root: Storage) -> None:
    everything = make_job(root, "spatial,motion,audio")
    extracted(everything, {n: SILENT for n in range(6)})
    narrowed = step.extract(make_job(root, "spatial,motion"))
    assert narrowed.fingerprint == step._find(everything, [])[0]
    assert [clip.tracks for clip in narrowed.clips] == [("frames", "flow")] * 6


def test_more_streams_than_were_extracted_are_extracted(root: Storage) -> None:
    extracted(make_job(root, "spatial,motion"))
    job = make_job(root, "spatial,motion,audio")
    rows = [step._row(video) for video in job.manifest.videos]
    assert step._find(job, rows)[2] is None
    assert step._find(make_job(root, "spatial,motion"), rows)[2] is not None


def test_a_clip_with_none_of_the_fewer_streams_is_rejected(root: Storage) -> None:
    extracted(make_job(root, "spatial,motion,audio"), {5: SILENT})
    found = step.extract(make_job(root, "audio", "--max_rejected_share", "0.5"))
    (rejected,) = found.rejected
    assert rejected["id"] == "5.mp4" and rejected["message"] == "the file has no sound"


def test_what_was_done_before_is_told_with_the_seconds_it_took_then(
    root: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(root, "spatial,motion,audio")
    extracted(job)
    step.extract(job)
    (line,) = capsys.readouterr().out.splitlines()
    assert "cached" in line and line.endswith("6 clips  (took 12.5 s)")
    assert (job.timings[0].seconds, job.timings[0].cached) == (12.5, True)


def test_what_the_flow_engine_has_to_say_is_told_once(
    root: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(root, "spatial,motion")
    extracted(job, note="optical flow runs on the CPU, for so and so")
    step.extract(job)
    told = "optical flow runs on the CPU, for so and so (6 of 6 clips)"
    output = " ".join(capsys.readouterr().out.split())
    assert output.count("optical flow") == 1 and f"! {told}" in output
    assert job.notes == [told]
    silent = make_job(root, "spatial")
    step.extract(silent)
    assert silent.notes == [] and "optical flow" not in capsys.readouterr().out


def test_a_clip_that_lacks_every_chosen_track_is_rejected_as_such() -> None:
    known = {"ok": True, "kind": "", "message": "", "facts": {"absent": {"sound": "it is mute"}}}
    assert step._narrowed(known, ("frames", "sound"))["ok"]
    bare = step._narrowed(known, ("sound",))
    assert (bare["ok"], bare["kind"], bare["message"]) == (False, "no_track", "it is mute")

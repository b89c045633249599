"""The step that embeds: its precision and its fingerprint, and what it says of failures."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.pool import run as pool
from actors.storage import Storage
from pipelines.data import Manifest, Video
from pipelines.steps import embed
from pipelines.steps.extract import ExtractedClip
from pipelines.steps.given import Given
from pipelines.steps.run import step_fingerprint
from pipelines.steps.step import Work
from trainers.encoders.inference import has_fast_bf16
from trainers.parts import EmbedPart
from trainers.settings import EmbeddingSettings
from trainers.streams.settings import StreamSettings

FROZEN = StreamSettings(encoder="own:vgg_small", weights="none", frozen=True, crop=32)


@pytest.fixture
def given(tmp_path) -> Given:
    video = Video("c0", "/c0.mp4", ("a",), "train", "g0")
    clips = (ExtractedClip(video, "c0.st", ("frames",), {}),)
    manifest = Manifest((video,), ("a", "b"), False, "made")
    return Given(manifest, clips, Storage(tmp_path / "artifacts"), "e", seed=0)


def with_precision(precision: Any) -> StreamSettings:
    return replace(FROZEN, embed=EmbeddingSettings(precision=precision))


def test_auto_is_settled_before_the_fingerprint(given, monkeypatch):
    def mark(precision: Any, *, fast: bool) -> str:
        monkeypatch.setattr(embed, "has_fast_bf16", lambda: fast)
        return step_fingerprint(embed.embed("a", with_precision(precision), given), {})

    assert mark("auto", fast=True) == mark("bf16", fast=True) == mark("bf16", fast=False)
    assert mark("auto", fast=False) == mark("channels_last", fast=False)
    assert mark("auto", fast=True) != mark("auto", fast=False)
    assert mark("fp32", fast=True) == mark("fp32", fast=False)
    assert len({mark(one, fast=True) for one in ("fp32", "bf16", "channels_last")}) == 3


def test_the_registered_model_computes_as_the_step_did(given, tmp_path):
    step = embed.embed("a", with_precision("auto"), given)
    work = Work(cast(Any, None), step, Storage(tmp_path / "step"), {})
    assert step.load is not None
    (named,) = step.load(work)
    assert isinstance(named.part, EmbedPart)
    wanted = "bf16" if has_fast_bf16() else "channels_last"
    assert named.part.source.settings.embed.precision == wanted == step.settings.embed.precision


def test_artifacts_that_can_not_be_embedded_are_told_with_both_folders(
    given, tmp_path, monkeypatch
):
    bad = {"ok": False, "id": "c0", "message": "the file is damaged"}
    monkeypatch.setattr(pool, "run_pool", lambda *_, **__: [bad])
    monkeypatch.setattr(
        pool, "PoolResources", SimpleNamespace(for_cluster=lambda **options: options)
    )
    progress = nullcontext(SimpleNamespace(update=lambda *_: None))
    job: Any = SimpleNamespace(
        board=lambda: None,
        console=SimpleNamespace(step=lambda *_, **__: progress, stage=lambda *_, **__: progress),
        settings=SimpleNamespace(
            resources=SimpleNamespace(embed_actors=None, embed_gpus=0.0), streams={}
        ),
    )
    step = embed.embed("a", FROZEN, given)
    with pytest.raises(RuntimeError) as error:
        step.run(Work(job, step, Storage(tmp_path / "stages"), {}))
    told = str(error.value)
    assert told.startswith("a.embed: 1 of the artifacts") and "the file is damaged" in told
    assert f"remove the folder {tmp_path}/stages" in told and f"{tmp_path}/artifacts" in told

"""Stages: skipped when finished, run again for another key, unmarked when they fail."""

from __future__ import annotations

import pytest

from actors.extract_settings import ExtractSettings
from actors.flow import TVL1
from actors.flow.choice import RAFT
from actors.storage import Storage
from pipelines.extract import extraction_key
from pipelines.steps.caching import fingerprint, run_stage


@pytest.fixture
def root(tmp_path):
    return Storage(tmp_path)


def test_a_finished_stage_is_skipped(root):
    runs = []

    def work(storage):
        storage.write_bytes("result", b"r")
        runs.append(storage.path())
        return {"clips": 3}

    first = run_stage(root, "fit", {"lr": 0.1}, work)
    again = run_stage(root, "fit", {"lr": 0.1}, work)
    assert runs == [first.storage.path()]
    assert (first.cached, again.cached) == (False, True)
    assert again.facts == first.facts == {"clips": 3}
    assert (again.seconds, again.fingerprint) == (first.seconds, first.fingerprint)
    assert again.storage.read_bytes("result") == b"r"


def test_another_key_or_name_runs_in_a_folder_of_its_own(root):
    results = [
        run_stage(root, name, {"lr": lr}, lambda storage, lr=lr: {"lr": lr})
        for name, lr in [("fit", 0.1), ("fit", 0.2), ("embed", 0.1)]
    ]
    assert [r.cached for r in results] == [False] * 3
    assert [r.facts["lr"] for r in results] == [0.1, 0.2, 0.1]
    assert len({r.storage.path() for r in results}) == 3


def test_a_stage_that_fails_is_not_marked_and_finds_what_it_left(root):
    def fails(storage):
        storage.write_bytes("half", b"h")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        run_stage(root, "fit", 1, fails)
    result = run_stage(root, "fit", 1, lambda storage: {"found": storage.names()})
    assert (result.cached, result.facts) == (False, {"found": ["half"]})


def test_artifacts_depend_on_the_chosen_flow_alone(tmp_path):
    def mark(**options):
        return fingerprint(extraction_key(ExtractSettings(**options)))

    plain = mark()
    assert mark(flow_method="exact") == plain
    assert mark(raft=RAFT(size="large")) == plain
    assert mark(flow=TVL1(warps=2), flow_method="exact") == plain
    assert mark(flow=TVL1(warps=2)) != plain
    assert mark(flow_bound=40.0) != plain
    weights = tmp_path / "raft.pth"
    weights.write_bytes(b"a")
    chosen = {"flow_method": "raft", "raft": RAFT(weights=str(weights))}
    first = mark(**chosen)
    assert len({plain, first, mark(flow_method="fast"), mark(flow_method="raft")}) == 4
    weights.write_bytes(b"other")
    assert mark(**chosen) != first

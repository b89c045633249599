"""Fingerprints: change with what affects results, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from actors.extract_settings import ExtractSettings
from actors.flow import TVL1
from actors.flow.choice import RAFT
from actors.neutral import is_neutral, neutral
from pipelines.steps.extract import extraction_key
from pipelines.steps.fingerprint import fingerprint, lasting, plain, weights_stamp


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    threads: int = neutral(4)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)


def test_plain_keeps_all_fields_and_lasting_leaves_neutral_ones_out():
    assert plain(Outer()) == {"inner": {"lr": 0.1, "threads": 4}, "sizes": [1, 2]}
    assert lasting(Outer()) == {"inner": {"lr": 0.1}, "sizes": [1, 2]}
    assert lasting({"a": [Inner(), None, True]}) == {"a": [{"lr": 0.1}, None, True]}
    assert lasting(Path("/a/b")) == "/a/b"
    assert lasting(np.float64(0.5)) == 0.5


def test_neutral_is_declared_with_the_field():
    fields = {f.name: f for f in Inner.__dataclass_fields__.values()}
    assert is_neutral(fields["threads"]) and not is_neutral(fields["lr"])


def test_a_fingerprint_is_the_start_of_a_digest_of_the_sorted_json():
    text = json.dumps([{"a": 1, "b": [2]}], sort_keys=True)
    wanted = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert fingerprint({"b": (2,), "a": 1}) == wanted


def test_neutral_settings_do_not_change_it_and_others_do():
    assert fingerprint(Inner()) == fingerprint(Inner(threads=9))
    assert fingerprint(Inner()) != fingerprint(Inner(lr=0.2))
    assert fingerprint(Outer(Inner(threads=1))) == fingerprint(Outer())
    assert fingerprint(1, 2) != fingerprint(2, 1) != fingerprint([2, 1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(4), np.zeros(4, np.float32)),
        (np.zeros(4, np.int64), np.zeros(4, np.float64)),
        (np.array(["a", "b"]), np.array(["a", "c"])),
        (np.array(["a", 1], object), np.array(["a", 2], object)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
    ],
)
def test_different_arrays_never_collide(one, other):
    assert fingerprint(one) == fingerprint(one.copy())
    assert fingerprint(one) != fingerprint(other)


def test_arrays_whose_printed_forms_are_alike_differ():
    one = np.zeros(10_000)
    other = one.copy()
    other[5_000] = 1e-12
    assert repr(one) == repr(other)
    assert fingerprint(one) != fingerprint(other)


def test_an_array_counts_by_its_values_not_by_its_memory_layout():
    rows = np.arange(6).reshape(2, 3)
    assert fingerprint(np.asfortranarray(rows)) == fingerprint(rows)
    assert lasting(rows) == {
        "array": "<i8",
        "shape": [2, 3],
        "digest": hashlib.sha256(rows.tobytes()).hexdigest(),
    }


@pytest.mark.parametrize("value", [object(), {1: "number as a key"}, {"set"}, lambda: None, Inner])
def test_what_has_no_unambiguous_form_is_refused(value):
    with pytest.raises(TypeError, match=r"can't be fingerprinted|must be text"):
        fingerprint(value)


def test_weights_count_by_their_files_size_and_time(tmp_path):
    assert weights_stamp(None) is weights_stamp("imagenet") is weights_stamp(str(tmp_path)) is None
    file = tmp_path / "weights.pth"
    file.write_bytes(b"abc")
    os.utime(file, ns=(5, 7))
    assert weights_stamp(str(file)) == [3, 7]


def test_artifacts_depend_on_the_chosen_flow_alone(tmp_path):
    def mark(**options):
        return fingerprint(extraction_key(ExtractSettings(**options)))

    default = mark()
    assert mark(flow_method="exact") == default
    assert mark(raft=RAFT(size="large")) == default
    assert mark(flow=TVL1(warps=2), flow_method="exact") == default
    assert mark(flow=TVL1(warps=2)) != default
    assert mark(flow_bound=40.0) != default
    assert mark(window=32) == default
    weights = tmp_path / "raft.pth"
    weights.write_bytes(b"a")
    chosen = {"flow_method": "raft", "raft": RAFT(weights=str(weights))}
    first = mark(**chosen)
    assert len({default, first, mark(flow_method="fast"), mark(flow_method="raft")}) == 4
    weights.write_bytes(b"other")
    assert mark(**chosen) != first

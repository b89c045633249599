"""Headers of safetensors files."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load, save

from trainers.tensor_files import read_metadata, with_metadata

TENSORS = {"b": np.arange(5, dtype=np.float32), "a": np.ones((2, 3), np.uint8)}


def test_metadata_is_added_and_replaced_and_the_tensors_stay() -> None:
    content = save(TENSORS, metadata={"kind": "old"})
    added = with_metadata(content, {"kind": "new", "classes": '["é", "b"]'})
    assert read_metadata(added) == {"kind": "new", "classes": '["é", "b"]'}
    assert int.from_bytes(added[:8], "little") % 8 == 0
    for name, values in load(added).items():
        np.testing.assert_array_equal(values, TENSORS[name])
    assert read_metadata(with_metadata(save(TENSORS), {"x": "1"})) == {"x": "1"}
    assert not load(with_metadata(save({}), {"x": "1"}))


def test_the_same_metadata_gives_the_same_bytes() -> None:
    content = save(TENSORS, metadata={"kind": "old"})
    names = [f"entry {number}" for number in range(9)]
    one = with_metadata(content, {name: "x" for name in names})
    other = with_metadata(content, {name: "x" for name in reversed(names)})
    assert one == other


def test_other_files_are_refused() -> None:
    for content in (b"", b"short", b"\xff" * 20):
        with pytest.raises(ValueError, match="too short"):
            with_metadata(content, {})
        with pytest.raises(ValueError, match="too short"):
            read_metadata(content)

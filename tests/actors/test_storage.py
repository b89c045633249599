"""Storage: names that need quoting, options in the URI, pickling, whole writes."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from actors.errors import UserError
from actors.storage import Storage

S3 = "s3://bucket/p?region=us-east-1&endpoint_override=localhost:9"
QUERY = "?region=us-east-1&endpoint_override=localhost:9"


def sent(storage):
    return pickle.loads(pickle.dumps(storage))  # noqa: S301 - what Ray does with it


@pytest.mark.parametrize("name", ["plain", "two words", "a#b", "100%", "what?", "ü", "50%20off"])
def test_a_copy_opens_the_same_folder_whatever_its_name(tmp_path, name):
    inner = Storage(tmp_path / name).join(f"in {name}", "deep")
    inner.write_bytes("file name#1", b"x")
    assert (tmp_path / name / f"in {name}" / "deep" / "file name#1").read_bytes() == b"x"
    for other in (sent(inner), sent(sent(inner)), Storage(inner.uri), Storage(inner.path())):
        assert other.path() == inner.path() == str(tmp_path / name / f"in {name}" / "deep")
        assert other.read_bytes("file name#1") == b"x"
    folder, found = Storage.locate(inner.path("file name#1"))
    assert folder.read_bytes(found) == b"x"


def test_a_file_uri_may_be_written_with_spaces(tmp_path):
    (tmp_path / "my videos").mkdir()
    for text in (f"file://{tmp_path}/my videos/", f"file://{tmp_path}/my%20videos"):
        storage = Storage(text)
        assert storage.local() == tmp_path / "my videos"
        assert storage.uri == f"file://{tmp_path}/my%20videos"


def test_the_query_of_a_remote_root_stays_behind_the_path():
    root = Storage(S3)
    inner = root.join("stages", "a b#1")
    assert root.uri == root.path() == S3
    assert inner.uri == "s3://bucket/p/stages/a%20b%231" + QUERY
    assert inner.path("x?.bin") == "s3://bucket/p/stages/a%20b%231/x%3F.bin" + QUERY
    assert inner.local("x") is None
    for other in (sent(inner), Storage(inner.uri), sent(Storage(inner.uri))):
        assert other._root == "bucket/p/stages/a b#1"
        assert other._fs == inner._fs, "the region and the endpoint went with it"
        assert other.uri == inner.uri
    folder, name = Storage.locate(inner.path("x?.bin"))
    assert (folder.uri, name, folder._fs == inner._fs) == (inner.uri, "x?.bin", True)


def test_the_root_of_a_file_system():
    root = Storage("/")
    assert (root.uri, root.path("etc"), root.join("etc").uri) == ("file:///", "/etc", "file:///etc")
    assert Storage.locate("/etc")[0].path() == Storage.locate("file:///etc")[0].path() == "/"


def test_what_cannot_be_opened_is_named():
    with pytest.raises(UserError, match="nosuch://x"):
        Storage("nosuch://x/y")


def test_files_are_listed_read_and_removed(tmp_path):
    storage = Storage(tmp_path / "new")
    assert storage.names() == []
    assert not storage.exists("a.json")
    storage.write_json("a.json", {"a": [1]})
    storage.write_table("b.parquet", pa.table({"x": [1, 2]}))
    assert storage.names() == ["a.json", "b.parquet"]
    assert storage.names(".json") == ["a.json"]
    assert storage.read_json("a.json") == {"a": [1]}
    assert storage.read_table("b.parquet")["x"].to_pylist() == [1, 2]
    storage.remove("a.json")
    storage.remove("a.json")
    assert storage.names() == ["b.parquet"]


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path):
    storage = Storage(tmp_path)
    storage.write_bytes("a", b"old")

    def pieces():
        yield b"ne"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        storage.write_pieces("a", pieces())
    assert storage.read_bytes("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="can't be written.*--storage"):
        Storage(tmp_path / "file").check_writable()
    Storage(tmp_path).check_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

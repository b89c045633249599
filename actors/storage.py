"""Files under one root: a local folder, or a URI that pyarrow's filesystems open."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from actors.errors import UserError


class Storage:
    """A folder that processes on several machines share.

    Writes are atomic: a reader sees the whole old file or the whole new one, even if the writer is
    killed. Picklable: the pickle holds the root's URI and the path below it.

    Args:
        root: a path, or a URI such as ``s3://bucket/prefix?region=eu-west-1`` or ``file:///data``.

    Raises:
        UserError: pyarrow can't open the root.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        text = os.fspath(root)
        if "://" not in text:
            text = Path(text).expanduser().absolute().as_uri()
        head, mark, query = text.replace(" ", "%20").partition("?")
        scheme, _, rest = head.partition("://")
        self._base = f"{scheme}://{rest.rstrip('/') or '/'}{mark}{query}"
        self._inner = ""
        self._open()

    def _open(self) -> None:
        try:
            self._fs, root = fs.FileSystem.from_uri(self._base)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"storage {self._base!r} can't be opened: {error}; give a folder or a URI"
            ) from error
        self._root = _below(root, self._inner)

    @staticmethod
    def locate(place: str) -> tuple[Storage, str]:
        """Splits a path or URI that `path` returned into the storage and the file's name."""
        if "://" not in place:
            folder, _, name = place.rpartition("/")
            return Storage(folder or ("/" if place.startswith("/") else ".")), name
        head, mark, query = place.partition("?")
        folder, _, name = head.rpartition("/")
        return Storage(f"{folder}{mark}{query}"), unquote(name)

    @property
    def uri(self) -> str:
        """URI that opens this folder again, with the root's options such as a region."""
        return self._uri_of("")

    def _uri_of(self, name: str) -> str:
        head, mark, query = self._base.partition("?")
        below = quote(_below(self._inner, name))
        between = "/" if below and not head.endswith("/") else ""
        return f"{head}{between}{below}{mark}{query}"

    def __getstate__(self) -> dict[str, str]:
        return {"base": self._base, "inner": self._inner}

    def __setstate__(self, state: dict[str, str]) -> None:
        self._base, self._inner = state["base"], state["inner"]
        self._open()

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def join(self, *parts: str) -> Storage:
        """Returns the storage of a subfolder, which the first write creates."""
        inner = Storage.__new__(Storage)
        inner._base, inner._inner = self._base, _below(self._inner, *parts)
        inner._fs, inner._root = self._fs, _below(self._root, *parts)
        return inner

    @property
    def is_local(self) -> bool:
        """Whether the files are on a local filesystem."""
        return isinstance(self._fs, fs.LocalFileSystem)

    def path(self, name: str = "") -> str:
        """Returns the path of a file or of the folder; its URI if the storage is remote."""
        return _below(self._root, name) if self.is_local else self._uri_of(name)

    def local(self, name: str = "") -> Path | None:
        """Returns the path of a file or of the folder; None if the storage is remote."""
        return Path(self.path(name)) if self.is_local else None

    def exists(self, name: str) -> bool:
        """Whether the file or folder exists."""
        return self._fs.get_file_info(self._at(name)).type != fs.FileType.NotFound

    def names(self, suffix: str = "") -> list[str]:
        """Returns the sorted names of this folder's files; none if the folder doesn't exist."""
        selector = fs.FileSelector(self._root, allow_not_found=True)
        infos = self._fs.get_file_info(selector)
        return sorted(
            info.base_name
            for info in infos
            if info.type == fs.FileType.File
            and info.base_name.endswith(suffix)
            and not info.base_name.startswith(".tmp-")
        )

    def read_bytes(self, name: str) -> bytes:
        """Reads a whole file.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        with self._fs.open_input_stream(self._at(name)) as stream:
            return stream.read()

    def write_bytes(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Writes a file atomically; see `write_pieces`."""
        self.write_pieces(name, [data], durable=durable)

    def write_pieces(self, name: str, pieces: Iterable[bytes], *, durable: bool = True) -> None:
        """Writes a file atomically: to a temporary file, which then replaces the target.

        Object stores publish a file when its upload is complete, so no temporary file is needed.

        Args:
            name: name of the file.
            pieces: content.
            durable: wait until the disk has stored the file, so that it survives a loss of power;
                otherwise it survives the end of any process.

        Raises:
            OSError: the file can't be written.
        """
        target = self._at(name)
        if not self.is_local:
            with self._fs.open_output_stream(target) as stream:
                for piece in pieces:
                    stream.write(piece)
            return
        folder = target.rsplit("/", 1)[0]
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.tmp-{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as stream:
                stream.writelines(pieces)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            os.replace(temporary, target)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise

    def read_json(self, name: str) -> Any:
        """Reads a JSON file; see `read_bytes`."""
        return json.loads(self.read_bytes(name))

    def write_json(self, name: str, value: Any, *, durable: bool = True) -> None:
        """Writes a JSON file atomically; see `write_pieces`."""
        self.write_bytes(name, json.dumps(value, indent=1).encode(), durable=durable)

    def read_table(self, name: str) -> pa.Table:
        """Reads a Parquet file; see `read_bytes`."""
        return pq.read_table(pa.BufferReader(self.read_bytes(name)))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Writes a Parquet file atomically; see `write_pieces`."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def remove(self, name: str) -> None:
        """Removes a file if it exists."""
        if self.exists(name):
            # Another job may remove it after the check.
            with suppress(FileNotFoundError):
                self._fs.delete_file(self._at(name))

    def check_writable(self) -> None:
        """Writes and removes a small file, to detect a full or read-only storage early.

        Raises:
            UserError: the storage can't be written.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"multiclue")
            self.remove(probe)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"storage {self.uri!r} can't be written: {error}; "
                "choose another one with --storage, or free some space"
            ) from error

    def _at(self, name: str) -> str:
        return _below(self._root, name)


def _below(folder: str, *parts: str) -> str:
    """Joins a folder and parts of a path; empty parts are ignored."""
    inner = "/".join(part.strip("/") for part in parts if part)
    if not inner:
        return folder
    return f"{folder.rstrip('/')}/{inner}" if folder else inner

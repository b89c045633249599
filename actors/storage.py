"""Files under one root: a folder of this machine, or any URI that pyarrow's filesystems open."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from actors.errors import UserError


class Storage:
    """A folder that many processes and machines share.

    Writes are atomic: a reader sees the whole old file or the whole new one, whatever is killed
    when. Picklable (it carries only its URI).

    Args:
        root: a path, or a URI such as ``s3://bucket/prefix`` or ``file:///data``.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        text = os.fspath(root)
        if "://" not in text:
            text = Path(text).expanduser().absolute().as_uri()
        self.uri = text.rstrip("/")
        self._open()

    def _open(self) -> None:
        try:
            self._fs, self._root = fs.FileSystem.from_uri(self.uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"storage {self.uri!r} can't be opened: {error}") from error

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.uri = state["uri"]
        self._open()

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def join(self, *parts: str) -> Storage:
        """The storage of a subfolder; nothing is created until something is written there."""
        inner = Storage.__new__(Storage)
        inner.uri = "/".join([self.uri, *parts])
        inner._fs, inner._root = self._fs, "/".join([self._root.rstrip("/"), *parts])
        return inner

    @property
    def is_local(self) -> bool:
        return isinstance(self._fs, fs.LocalFileSystem)

    def path(self, name: str = "") -> str:
        """What other code can open: a plain path where the storage is local, else a URI."""
        if self.is_local:
            return f"{self._root}/{name}" if name else self._root
        return f"{self.uri}/{name}" if name else self.uri

    def local(self, name: str = "") -> Path | None:
        """The file's path on this machine, or None where the storage is remote."""
        return Path(self.path(name)) if self.is_local else None

    def exists(self, name: str) -> bool:
        return self._fs.get_file_info(self._at(name)).type != fs.FileType.NotFound

    def names(self, suffix: str = "") -> list[str]:
        """Names of the files directly in this folder, sorted; empty when it does not exist."""
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
        with self._fs.open_input_stream(self._at(name)) as stream:
            return stream.read()

    def write_bytes(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Writes a whole file atomically; see `write_pieces`."""
        self.write_pieces(name, [data], durable=durable)

    def write_pieces(self, name: str, pieces: Iterable[bytes], *, durable: bool = True) -> None:
        """Writes a file atomically, piece by piece: beside its place, then moved over it.

        Object stores show a file only when its upload is complete, so there it is written at once.

        Args:
            durable: wait until the disk has it, so that it outlives a loss of power; without, it
                outlives the death of any process.
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
        return json.loads(self.read_bytes(name))

    def write_json(self, name: str, value: Any, *, durable: bool = True) -> None:
        self.write_bytes(name, json.dumps(value, indent=1).encode(), durable=durable)

    def read_table(self, name: str) -> pa.Table:
        return pq.read_table(pa.BufferReader(self.read_bytes(name)))

    def write_table(self, name: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def remove(self, name: str) -> None:
        """Removes a file; one that is not there is no error."""
        if self.exists(name):
            self._fs.delete_file(self._at(name))

    def check_writable(self) -> None:
        """Writes and removes a small file, so that a full or read-only place is found at once.

        Raises:
            UserError: nothing can be written there.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"multiclue")
            self.remove(probe)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"storage {self.uri!r} can't be written: {error}; "
                "give another place with --storage, or free some space"
            ) from error

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

"""A clip's artifact: one safetensors file with its frames, flow fields and spectrogram.

Artifacts are written piece by piece, so memory does not grow with the clip's length. They are read
through a memory map, so reading one frame of a long clip does not read the others.

===================  =======================================================================
tensor               content
===================  =======================================================================
frames               raw: uint8 (n_frames, 3, H, W), RGB; else uint8 (bytes,), encoded frames
frames_offsets       int64 (n_frames + 1), if encoded: where each frame begins and ends
flow                 raw: uint8 (n_flow, 2, H, W), x first; else uint8 (bytes,), encoded fields
flow_offsets         int64 (n_flow + 1), if encoded
spectrogram          float16 (bands, T)
===================  =======================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load

from actors.errors import UserError
from actors.media.codecs import decode, encode
from actors.tracks import FLOW, FRAMES, SOUND, TRACKS

VERSION = 2
"""Version of the format. Version 1 named streams (spatial, motion, audio) instead of tracks."""
_KEY = "multiclue"
_IN_MEMORY = 8 * 2**20
_PIECE = 2**20
_SAFETENSORS_TYPES = {"uint8": "U8", "int64": "I64", "float16": "F16"}


def artifact_name(clip_id: str) -> str:
    """Returns the file name of a clip's artifact: readable characters of the id, and its hash."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", clip_id).strip("._")[-80:] or "clip"
    digest = hashlib.sha256(clip_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable}-{digest}.safetensors"


class Spool:
    """Bytes of one tensor, in memory up to a limit and then in a temporary file."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape
        self.bytes = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes."""
        self.bytes += len(data)
        self._file.write(data)

    def pieces(self) -> Iterator[bytes]:
        """Yields all bytes in pieces of at most a megabyte."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece
        self._file.seek(0, os.SEEK_END)


class ImageSpool:
    """Encodes images window by window and collects the results.

    Args:
        codec: see `actors.extract_settings.CODECS`.
        quality: quality of JPEG, 1 to 100.
    """

    def __init__(self, codec: str, quality: int) -> None:
        self._codec, self._quality = codec, quality
        self._data: Spool | None = None
        self._ends = [0]
        self.count = 0

    def append(self, images: np.ndarray) -> None:
        """Encodes and appends images, uint8 (n, C, H, W)."""
        if len(images) == 0:
            return
        if self._data is None:
            self._data = Spool("uint8", images.shape[1:] if self._codec == "raw" else ())
        self.count += len(images)
        if self._codec == "raw":
            self._data.write(np.ascontiguousarray(images).data.cast("B"))
            return
        for encoded in encode(images, codec=self._codec, quality=self._quality):
            self._data.write(encoded)
            self._ends.append(self._data.bytes)

    def tensors(self, name: str) -> dict[str, Spool]:
        """Returns the artifact's tensors of these images; none without images."""
        if self._data is None:
            return {}
        if self._codec == "raw":
            self._data.shape = (self.count, *self._data.shape)
            return {name: self._data}
        self._data.shape = (self._data.bytes,)
        ends = np.array(self._ends, np.int64)
        return {name: self._data, f"{name}_offsets": spool(ends)}


def spool(array: np.ndarray) -> Spool:
    """Returns a spool with the whole array."""
    kept = Spool(array.dtype.name, array.shape)
    kept.write(np.ascontiguousarray(array).tobytes())
    return kept


@dataclass
class Clip:
    """An extracted clip: metadata and tensors of its artifact."""

    metadata: dict[str, Any]
    tensors: dict[str, Spool] = field(default_factory=dict)


def pieces(clip: Clip) -> Iterator[bytes]:
    """Yields the bytes of the artifact, a safetensors file, in pieces of at most a megabyte."""
    # Wide dtypes first and a padded header, so that each tensor is aligned to its dtype.
    ordered = sorted(
        clip.tensors.items(), key=lambda item: (-np.dtype(item[1].dtype).itemsize, item[0])
    )
    header: dict[str, Any] = {"__metadata__": {_KEY: json.dumps(clip.metadata, allow_nan=False)}}
    begin = 0
    for name, tensor in ordered:
        header[name] = {
            "dtype": _SAFETENSORS_TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.bytes],
        }
        begin += tensor.bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        yield from tensor.pieces()


def pack(clip: Clip) -> bytes:
    """Returns the bytes of the artifact."""
    return b"".join(pieces(clip))


class ArtifactReader:
    """Reads an artifact. Thread-safe.

    Attributes:
        metadata: metadata from `extraction.extract_clip`.
        tracks: those the clip has, in the order of `actors.tracks.TRACKS`.
        n_frames, n_flow: number of RGB frames and of flow fields.
        size: (H, W) of frames and flow; None without both.
        spectrogram_rate: columns of the spectrogram per second; None without sound.
    """

    def __init__(self, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        self.metadata = metadata
        self._tensors = tensors
        self._codec: str = metadata["codec"]
        self.n_frames: int = metadata["n_frames"]
        self.n_flow: int = metadata["n_flow"]
        self.size: tuple[int, int] | None = tuple(metadata["size"]) if metadata["size"] else None
        sound = metadata["sound"]
        self.spectrogram_rate: float | None = sound["columns_per_second"] if sound else None
        present = {FRAMES: self.n_frames, FLOW: self.n_flow, SOUND: "spectrogram" in tensors}
        self.tracks: tuple[str, ...] = tuple(track for track in TRACKS if present[track])

    @classmethod
    def open(cls, source: str | os.PathLike[str] | bytes) -> ArtifactReader:
        """Opens an artifact.

        Args:
            source: its path, which is memory-mapped; its URI, or its bytes, which are read.

        Raises:
            UserError: the artifact does not exist, is damaged, or has another format version.
        """
        blob = source if isinstance(source, bytes) else _fetch(os.fspath(source))
        shown = f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
        try:
            tensors, header = _from_bytes(blob) if isinstance(blob, bytes) else _from_file(shown)
            metadata = json.loads(header[_KEY])
            if metadata["version"] != VERSION:
                raise UserError(
                    f"artifact {shown} has format version {metadata['version']!r}, this release "
                    f"reads version {VERSION}; remove it and extract the clip again"
                )
            return cls({name: tensor.numpy() for name, tensor in tensors.items()}, metadata)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"artifact {shown} can't be read ({error!r}); remove it and extract the clip again"
            ) from error

    def frames(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Reads RGB frames: uint8 (n, 3, H, W), in the order of the indices.

        Raises:
            IndexError: an index is out of range, or there is none.
        """
        return self._images("frames", indices, channels=3, count=self.n_frames)

    def flow(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Reads flow fields: uint8 (n, 2, H, W), x first; 128 is no motion (`flow.dequantize`).

        Raises:
            IndexError: an index is out of range, or there is none.
        """
        return self._images("flow", indices, channels=2, count=self.n_flow)

    def spectrogram(self) -> torch.Tensor | None:
        """Returns the log-magnitude STFT, float32 (bands, T), roughly standardized; or None."""
        kept = self._tensors.get("spectrogram")
        return None if kept is None else torch.from_numpy(kept.astype(np.float32))

    def _images(
        self, name: str, indices: Sequence[int] | np.ndarray, *, channels: int, count: int
    ) -> torch.Tensor:
        checked = checked_indices(name, indices, count)
        # NumPy's indexing, not torch's: it starts no threads, which cost more than the copy.
        if self._codec == "raw":
            return torch.from_numpy(self._tensors[name][checked])
        assert self.size is not None
        data, ends = self._tensors[name], self._tensors[f"{name}_offsets"]
        encoded = [data[ends[i] : ends[i + 1]] for i in checked]
        return torch.from_numpy(
            decode(encoded, codec=self._codec, channels=channels, size=self.size)
        )


def checked_indices(name: str, indices: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Returns the indices as int64 (n,).

    Raises:
        IndexError: there is none, or one is outside [0, count).
    """
    checked = np.asarray(indices, dtype=np.int64)
    if checked.size == 0:
        raise IndexError(f"no {name} were asked for; give at least one index")
    low, high = checked.min(), checked.max()
    if low < 0 or high >= count:
        raise IndexError(f"{name} {low}..{high} were asked for, the clip has {count} of them")
    return checked


def _fetch(place: str) -> bytes | None:
    """Reads the bytes behind a URI; returns None for a path."""
    if "://" not in place:
        return None
    from actors.storage import Storage

    storage, name = Storage.locate(place)
    return storage.read_bytes(name)


def _from_file(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def _from_bytes(blob: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    tensors = load(blob)
    length = int.from_bytes(blob[:8], "little")
    return tensors, json.loads(blob[8 : 8 + length])["__metadata__"]

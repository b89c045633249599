"""The header of safetensors files: metadata beside the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

METADATA = "__metadata__"
ALIGNMENT = 8
"""Bytes to whose multiple the header is filled up with spaces."""


def read_metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, whose JSON header follows its length in 8 bytes.

    Args:
        content: the whole file.

    Raises:
        ValueError: the content is no safetensors file, or is cut off within its header.
    """
    return dict(_header(content)[0].get(METADATA, {}))


def with_metadata(content: bytes, added: Mapping[str, str]) -> bytes:
    """A safetensors file with more metadata; the same bytes whenever it is called.

    `safetensors.save` writes several entries of metadata in an arbitrary order.

    Args:
        content: the whole file.
        added: entries that are added, or replaced.

    Raises:
        ValueError: see `read_metadata`.
    """
    header, tensors = _header(content)
    metadata = {**header.pop(METADATA, {}), **added}
    text = json.dumps({METADATA: dict(sorted(metadata.items())), **header}).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + tensors


def _header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and what follows it."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("the file is too short")
    return json.loads(content[8 : 8 + length]), content[8 + length :]

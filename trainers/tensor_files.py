"""The header of safetensors files: metadata beside the tensors."""

from __future__ import annotations

import json


def read_metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, whose JSON header follows its length in 8 bytes.

    Args:
        content: the whole file.

    Raises:
        ValueError: the content is no safetensors file, or is cut off within its header.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("the file is too short")
    return dict(json.loads(content[8 : 8 + length]).get("__metadata__", {}))

"""Codecs of an artifact's images: zstd (lossless) and JPEG, each image by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_BLOCK = 8
"""Side of JPEG's blocks in pixels; two planes in one image must not share a block."""


def encode(images: np.ndarray, *, codec: str, quality: int) -> list[bytes]:
    """Encodes images, each by itself.

    Args:
        images: uint8 (n, C, H, W); C is 3 (RGB) or 2 (flow, whose planes JPEG stores one above the
            other).
        codec: ``zstd`` or ``jpeg``.
        quality: quality of JPEG, 1 to 100.

    Returns:
        n encoded images.
    """
    if codec == "zstd":
        import pyarrow as pa

        zstd = pa.Codec("zstd", compression_level=1)
        return [zstd.compress(np.ascontiguousarray(i).data, asbytes=True) for i in images]
    from torchvision.io import encode_jpeg

    if images.shape[1] == 2:
        images = _above_each_other(images)
    tensors = list(torch.from_numpy(np.ascontiguousarray(images)))
    return [encoded.numpy().tobytes() for encoded in encode_jpeg(tensors, quality)]


def decode(
    encoded: Sequence[np.ndarray], *, codec: str, channels: int, size: tuple[int, int]
) -> np.ndarray:
    """Decodes images from `encode` to uint8 (n, channels, H, W), with `size` = (H, W)."""
    height, width = size
    if codec == "zstd":
        import pyarrow as pa

        zstd, length = pa.Codec("zstd"), channels * height * width
        plain = [np.frombuffer(zstd.decompress(pa.py_buffer(e), length), np.uint8) for e in encoded]
        return np.stack(plain).reshape(-1, channels, height, width)
    from torchvision.io import ImageReadMode, decode_jpeg

    mode = ImageReadMode.GRAY if channels == 2 else ImageReadMode.RGB
    images = [decode_jpeg(torch.from_numpy(np.array(e)), mode).numpy() for e in encoded]
    stacked = np.stack(images)
    if channels == 2:
        return stacked.reshape(len(stacked), 2, -1, width)[:, :, :height]
    return stacked


def as_decoded(images: np.ndarray, *, codec: str, quality: int) -> np.ndarray:
    """Encodes and decodes images: the images as they are read from an artifact.

    Args:
        images: uint8 (n, C, H, W), C is 3 or 2.
        codec: ``raw``, ``zstd`` (both lossless) or ``jpeg``.
        quality: quality of JPEG, 1 to 100.

    Returns:
        uint8, shape of `images`.
    """
    if codec != "jpeg":
        return images
    encoded = [np.frombuffer(e, np.uint8) for e in encode(images, codec=codec, quality=quality)]
    channels, size = images.shape[1], (images.shape[2], images.shape[3])
    return decode(encoded, codec=codec, channels=channels, size=size)


def _above_each_other(fields: np.ndarray) -> np.ndarray:
    """(n, 2, H, W) -> (n, 1, 2 H', W); H' is H rounded up to whole JPEG blocks."""
    n, _, height, width = fields.shape
    padding = -height % _BLOCK
    padded = np.pad(fields, ((0, 0), (0, 0), (0, padding), (0, 0)), mode="edge")
    return padded.reshape(n, 1, 2 * (height + padding), width)

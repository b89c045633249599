"""RAFT, torchvision's network for optical flow, as an engine of optical flow.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020. The
modules of the network are torchvision's; this module runs them for many pairs. It computes a
frame's features once for both pairs that use it, and upsamples only the last field.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from actors.errors import UserError
from actors.flow.choice import DEFAULT, RAFT
from actors.flow.devices import Fitting, PairSize, check_present, free_memory
from actors.flow.tvl1 import check_frames
from actors.weights import published_state, read_state

STRIDE = 8
"""The network computes at 1/8 of the frame's width and height."""
LEAST_SIDE = 16 * STRIDE
"""Smallest side in pixels: the coarsest of four correlation levels needs two values per side."""
CPU_BYTES = 512 * 2**20
"""Memory for one batch on the CPU, where larger batches are not faster."""
GPU_SHARE = 0.5
"""Share of a GPU's free memory for one batch; several processes may share the GPU."""
MOST_PAIRS = 64
"""Largest number of pairs per batch."""


def load_network(settings: RAFT, weights: bytes | None = None) -> nn.Module:
    """Returns the network with its weights, in evaluation mode on the CPU.

    Args:
        settings: size and weights of the network.
        weights: content of a safetensors file; it replaces the weights of the settings.

    Raises:
        UserError: the weights don't exist, can't be downloaded, or are those of another network.
    """
    from torchvision.models import optical_flow  # takes a second, and TV-L1 does not need it

    large = settings.size == "large"
    if weights is not None:
        state = safetensors.torch.load(weights)
    elif settings.weights == DEFAULT:
        kind: Any = optical_flow.Raft_Large_Weights if large else optical_flow.Raft_Small_Weights
        state = published_state(
            kind.DEFAULT,
            what=f"weights of RAFT {settings.size}",
            otherwise="give its path as extract.raft.weights, or use another extract.flow_method",
        )
    else:
        state = read_state(settings.weights)
    network: nn.Module = (optical_flow.raft_large if large else optical_flow.raft_small)()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"raft: weights {settings.weights!r} are not of torchvision's RAFT {settings.size}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    return network.eval().requires_grad_(False)


def raft_bytes(settings: RAFT) -> bytes:
    """Returns the network's weights as a safetensors file, for `RAFTEngine`.

    Raises:
        UserError: see `load_network`.
    """
    return safetensors.torch.save(dict(load_network(settings).state_dict()))


class RAFTEngine:
    """Computes optical flow by RAFT. Thread-safe; calls run one after another.

    Args:
        settings: size, weights and number of updates of the network.
        device: "cpu", "cuda" or "cuda:N". On a GPU features and updates are computed in half
            precision, correlations and coordinates in single precision, as in the paper's code.
        share: largest share of the GPU's memory.
        weights: content of a safetensors file; it replaces the weights of the settings.

    Raises:
        UserError: the device doesn't exist, or the weights are not available; see `load_network`.
    """

    color = True
    """The engine prefers RGB frames, on which the network was trained; it accepts gray ones too."""

    def __init__(
        self,
        settings: RAFT,
        device: str = "cpu",
        share: float = 1.0,
        weights: bytes | None = None,
    ) -> None:
        self.settings, self.share = settings, share
        self.device = torch.device(device)
        check_present(self.device)  # before weights are downloaded
        self._network: Any = load_network(settings, weights).to(self.device)
        self._lock = threading.Lock()
        self._fitting = Fitting(self.device, share)

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Computes the flow from each frame to the next, or of each pair.

        Args:
            frames: uint8; (T, H, W) gray or (T, 3, H, W) RGB frames of a clip, or (N, 2, H, W)
                pairs of gray frames; at least 16 pixels wide and high.

        Returns:
            float32 (max(T - 1, 0), 2, H, W), or (N, 2, H, W): displacements in pixels, x first.

        Raises:
            ValueError: the frames have another shape or dtype, or are too small.
            UserError: the device's memory is too small for one pair.
        """
        frames = check_frames(frames)
        pairs = frames.ndim == 4 and frames.shape[1] == 2
        count = len(frames) if pairs else max(len(frames) - 1, 0)
        height, width = frames.shape[-2:]
        fields = np.empty((count, 2, height, width), np.float32)
        size = PairSize(height, width, pair_bytes(height, width))
        with self._lock, torch.inference_mode(), _repeatable():
            most = self._pairs_at_once(height, width)
            self._fitting.run(size, most, partial(self._fill, fields, frames, pairs))
        return fields

    def _fill(
        self, fields: NDArray[np.float32], frames: NDArray[np.uint8], pairs: bool, most: int
    ) -> None:
        """Computes all fields, at most `most` per batch."""
        for start in range(0, len(fields), most):
            stop = min(start + most, len(fields))
            images = frames[start:stop] if pairs else frames[start : stop + 1]
            fields[start:stop] = self._batch(images, pairs).cpu().numpy()

    def _batch(self, images: NDArray[np.uint8], pairs: bool) -> Tensor:
        """Computes the fields of one batch, (N, 2, H, W), on the device."""
        raw = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        if pairs:  # all first frames, then all second ones
            raw = raw.transpose(0, 1).reshape(-1, *raw.shape[-2:])
        if raw.ndim == 3:
            raw = raw[:, None].expand(-1, 3, -1, -1)
        left, right, top, bottom = margins = padding(*raw.shape[-2:])
        padded = pad(raw.to(torch.float32) / 127.5 - 1, margins, mode="replicate")
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            features = self._network.feature_encoder(padded)
            first, second = features.chunk(2) if pairs else (features[:-1], features[1:])
            context = self._network.context_encoder(padded[: len(first)])
            field = self._refine(first.float(), second.float(), context)
        height, width = padded.shape[-2:]
        return field[..., top : height - bottom, left : width - right]

    def _refine(self, first: Tensor, second: Tensor, context: Tensor) -> Tensor:
        """Iterative updates (section 3.3): looks up correlations and updates the field.

        Args:
            first: features of the first frames, (N, C, H / 8, W / 8).
            second: features of the second frames, same shape.
            context: context of the first frames: initial state and constant part, concatenated.

        Returns:
            float32 (N, 2, H, W), displacements in pixels.
        """
        from torchvision.models.optical_flow._utils import upsample_flow

        network, lookup = self._network, self._network.corr_block
        state, constant = _split(context, network.update_block.hidden_state_size)
        origin = _grid(len(first), *first.shape[-2:]).to(first)
        points = origin
        try:
            with torch.autocast(self.device.type, enabled=False):
                lookup.build_pyramid(first, second)
            for _ in range(self.settings.updates):
                with torch.autocast(self.device.type, enabled=False):
                    correlations = lookup.index_pyramid(centroids_coords=points)
                state, step = network.update_block(state, constant, correlations, points - origin)
                points = points + step.float()
        finally:
            lookup.corr_pyramid = []  # gigabytes for large frames
        mask = None if network.mask_predictor is None else network.mask_predictor(state).float()
        return upsample_flow(points - origin, up_mask=mask)

    def _pairs_at_once(self, height: int, width: int) -> int:
        if self.device.type == "cuda":
            budget = GPU_SHARE * free_memory(self.device, self.share)
        else:
            budget = CPU_BYTES
        return int(min(max(budget // pair_bytes(height, width), 1), MOST_PAIRS))


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels to add left, right, above and below for the network."""
    wide, high = (max(-(-side // STRIDE) * STRIDE, LEAST_SIDE) - side for side in (width, height))
    return wide // 2, wide - wide // 2, high // 2, high - high // 2


def pair_bytes(height: int, width: int) -> int:
    """Estimates the peak memory of a pair in bytes.

    About 1 KiB per pixel for the encoder's activations, and three float32 for each pair of
    positions: correlations, scaled correlations and their pooled levels.
    """
    left, right, top, bottom = padding(height, width)
    pixels = (height + top + bottom) * (width + left + right)
    return 1024 * pixels + 3 * 4 * (pixels // STRIDE**2) ** 2


def _split(context: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Splits into the recurrent unit's initial state and its input at each update."""
    return torch.tanh(context[:, :size]), torch.relu(context[:, size:])


def _grid(count: int, height: int, width: int) -> Tensor:
    """Coordinates of each position, (count, 2, height, width), x first."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).expand(count, -1, -1, -1)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Makes cuDNN choose the same algorithms each time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield

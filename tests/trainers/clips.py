"""Clips made of arrays, with an artifact reader's methods; each stream shows the class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainers.fit.examples import Example


class ArrayClip:
    """A clip whose class (of 3) a frame's bright band, the flow and the spectrogram all show."""

    def __init__(
        self, number: int, *, n_frames: int = 8, n_flow: int = 15, columns: int = 80, side: int = 24
    ) -> None:
        rng = np.random.default_rng(number)
        label = number % 3
        self.n_frames, self.n_flow = n_frames, n_flow
        self.spectrogram_rate = 20.0
        self.metadata = {"fps": 10.0, "frame_every": 2}
        self.reads = 0
        frames = rng.integers(0, 120, (n_frames, 3, side, side), dtype=np.uint8)
        frames[:, label] += 100
        self._frames = torch.from_numpy(frames)
        flow = rng.normal(128, 2, (n_flow, 2, side, side))
        flow[:, 0, 6:16, 6:16] += (12, -12, 0)[label]
        self._flow = torch.from_numpy(flow.astype(np.uint8))
        self._spectrogram = torch.from_numpy(rng.normal(0, 1, (24, columns)).astype(np.float32))
        self._spectrogram[8 * label : 8 * label + 4] += 2

    def frames(self, indices: Sequence[int]) -> torch.Tensor:
        self.reads += 1
        return self._frames[list(indices)]

    def flow(self, indices: Sequence[int]) -> torch.Tensor:
        self.reads += 1
        return self._flow[list(indices)]

    def spectrogram(self) -> torch.Tensor | None:
        return self._spectrogram


def open_array_clip(artifact: str) -> ArrayClip:
    return ArrayClip(int(artifact))


def array_examples(train: int = 24, validation: int = 9) -> list[Example]:
    splits = ["train"] * train + ["val"] * validation
    return [Example(f"{i:03d}", str(i), (i % 3,), split) for i, split in enumerate(splits)]

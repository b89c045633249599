"""A stream of your own: differences between neighboring frames, a cheap clue to motion."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trainers.streams.clips import Media
from trainers.streams.frames import Frames
from trainers.streams.settings import StreamSettings
from trainers.streams.stream import Stream


class FrameDifferences(Frames):
    """A sample is (3, H, W) uint8: 128 plus half of a frame minus the one before it."""

    def count_positions(self, clip: Media) -> int:
        """One position per pair of neighboring frames; a single frame differs from itself."""
        return max(clip.n_frames - 1, 1)

    def cut(self, clip: Media, positions: Sequence[int]) -> Tensor:
        """The differences at some positions, (n, 3, H, W)."""
        before = clip.frames(list(positions)).int()
        after = clip.frames([min(p + 1, clip.n_frames - 1) for p in positions]).int()
        return (128 + (after - before) // 2).byte()


def frame_differences(name: str, settings: StreamSettings) -> Stream:
    """``samples: examples.frame_differences:frame_differences`` on the track ``frames``."""
    return FrameDifferences(name, settings)

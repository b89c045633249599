"""Streams of stacked flow fields (Simonyan and Zisserman, 2014, Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from actors.flow.fields import dequantize, flip_stack, interleave, subtract_mean
from actors.media.sampling import stack_indices
from actors.tracks import FLOW
from trainers.streams.clips import Media
from trainers.streams.pictures import PictureStream
from trainers.streams.stream import Preview, metadata_of

# The middle of 0..255, so that 255 - v is exactly -v; 16 levels (2.5 pixels at a bound of 20) are
# about the spread of everyday motion.
MIDDLE = 127.5
SPREAD = 16.0


class FlowStacks(PictureStream):
    """L consecutive flow fields are a sample: uint8 (2L, H, W), channels x, y, x, y, ...

    Past the end of the flow its last field is repeated.
    """

    track = FLOW

    @property
    def channels(self) -> int:
        return 2 * self.settings.stack

    def count_positions(self, clip: Media) -> int:
        return max(clip.n_flow - self.settings.stack + 1, 1) if clip.n_flow else 0

    def cut(self, clip: Media, positions: Sequence[int]) -> Tensor:
        length = self.settings.stack
        wanted = [stack_indices(start=p, length=length, n=clip.n_flow) for p in positions]
        flow = clip.flow([i for indices in wanted for i in indices])
        return interleave(flow.unflatten(0, (len(wanted), length)))

    def mirror(self, sample: Tensor) -> Tensor:
        """Mirrored left to right, x displacements negated."""
        return flip_stack(sample)

    def normalize_own(self, samples: Tensor) -> Tensor:
        stacks = (samples.float() - MIDDLE) / SPREAD
        return subtract_mean(stacks) if self.settings.subtract_mean_flow else stacks

    def positions_per_second(self, clip: Media) -> float:
        return float(metadata_of(clip).get("fps") or 1.0)

    def preview(self, clip: Media, count: int = 1) -> Preview:
        """The field in the middle of the clip, in pixels."""
        bound = metadata_of(clip)["flow_bound"]
        field = dequantize(clip.flow([clip.n_flow // 2])[0].numpy(), bound)
        return Preview("flow", np.asarray(field), "flow")

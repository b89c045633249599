"""What streams of pictures share: squares cut from them, or whole pictures resized."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import interpolate

from trainers.encoders.specification import InputSpecification
from trainers.streams.stream import ANY_SIZE, Places, Stream


class PictureStream(Stream):
    """Base of the kinds of streams whose samples are pictures, or stacks of fields like them."""

    needs_side = True

    def mirror(self, sample: Tensor) -> Tensor:
        """(C, h, w) mirrored left to right."""
        return sample.flip(-1)

    def crop(
        self,
        samples: Tensor,
        specification: InputSpecification = ANY_SIZE,
        *,
        places: Places | None = None,
        flips: Sequence[bool] | None = None,
    ) -> Tensor:
        """See `Stream.crop`. Pictures smaller than the square are scaled up to it; where the
        specification says squeeze, the whole picture is resized instead."""
        side = self.side(specification)
        if side is None:
            return samples
        if specification.fit == "squeeze":
            samples = resize(samples, (side, side), specification, antialias=True)
        else:
            samples = _at_least(samples, side, specification)
        room = samples.shape[-2] - side, samples.shape[-1] - side
        out = samples.new_empty(*samples.shape[:2], side, side)
        for i, sample in enumerate(samples):
            top, left = _corner(room, None if places is None else places[i])
            piece = sample[:, top : top + side, left : left + side]
            out[i] = self.mirror(piece) if flips is not None and flips[i] else piece
        return out


def _corner(room: tuple[int, int], place: tuple[float, float] | None) -> tuple[int, int]:
    if place is None:
        return room[0] // 2, room[1] // 2
    return int(place[0] * (room[0] + 1)), int(place[1] * (room[1] + 1))


def _at_least(samples: Tensor, side: int, specification: InputSpecification) -> Tensor:
    """Scales pictures up so that their shorter side is `side`, where it is less."""
    height, width = samples.shape[-2:]
    short = min(height, width)
    if short >= side:
        return samples
    size = (max(round(height * side / short), side), max(round(width * side / short), side))
    return resize(samples, size, specification, antialias=False)


def resize(
    samples: Tensor, size: tuple[int, int], specification: InputSpecification, *, antialias: bool
) -> Tensor:
    """Pictures (n, C, H, W) resized to (n, C, *size), of the same dtype."""
    mode = specification.interpolation
    return interpolate(samples, size=size, mode=mode, antialias=antialias)

"""Fitting a stream's encoder on the samples cut from its clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from actors.artifact import ArtifactReader
from actors.errors import UserError
from trainers.encoders.encoder import Encoder
from trainers.encoders.factory import build_encoder
from trainers.fit.examples import Example, draw_examples, split_examples
from trainers.fit.objective import Objective
from trainers.fit.prefetch import prefetch
from trainers.streams.clips import ClipCache, Media
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings
from trainers.streams.stream import Stream

_AT_ONCE = 64
"""Samples that go through the encoder together in validation."""


class EncoderTask:
    """What `trainers.fit.loop.fit` needs to fit a stream's encoder.

    A batch is a function of (seed, step) alone: which clips (a permutation per epoch), which
    positions, crops, flips and colors. So a resumed fit sees what an undisturbed one sees.

    Args:
        stream: the stream's name.
        settings: samples, encoder, fit.
        examples: clips that have the stream's track; those of split ``train`` are learned from,
            those of ``val`` validate.
        n_classes: classes, C.
        multi_label: see `trainers.fit.objective.Objective`.
        seed: of everything random.
        opener: opens an artifact.

    Raises:
        UserError: the encoder is frozen, there are no training clips, or samples are too small for
            the encoder.
    """

    def __init__(
        self,
        stream: str,
        settings: StreamSettings,
        examples: Sequence[Example],
        n_classes: int,
        multi_label: bool,
        seed: int,
        *,
        opener: Callable[[str], Media] = ArtifactReader.open,
    ) -> None:
        if settings.frozen:
            raise UserError(f"the encoder of stream {stream!r} is frozen: there is nothing to fit")
        self.settings, self.seed = settings, seed
        self.train, self.validation = split_examples(examples, what=f"the {stream} stream")
        self.objective = Objective(
            self.train,
            n_classes,
            multi_label=multi_label,
            class_weights=settings.class_weights,
        )
        self.stream, self.model = open_stream(stream, settings, n_classes=n_classes, seed=seed)
        self.clips = ClipCache(
            open_files=settings.open_files, cache_mb=settings.cache_mb, opener=opener
        )
        check_input(self.model, self.stream, self.clips[self.train[0].artifact])

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """This rank's share of a step's samples: ``inputs`` as cut (n, C, h, w), ``targets``, and
        where the stream augments its samples ``augmentation`` (n, ...), see `Stream.augment`."""
        per_clip = self.settings.samples_per_clip
        n_clips = self.settings.fit.batch_size // per_clip
        rng = np.random.default_rng([self.seed, step])
        draws = rng.random((n_clips, per_clip, 4))
        chosen = draw_examples(len(self.train), n_clips, step=step, seed=self.seed)
        shares = slice(rank, None, world_size)
        examples = [self.train[i] for i in chosen[shares]]
        inputs = [self._cut(e, d) for e, d in zip(examples, draws[shares], strict=True)]
        targets = self.objective.tensor(examples).repeat_interleave(per_clip, 0)
        batch = {"inputs": torch.cat(inputs), "targets": targets}
        augmentation = self.stream.draw_augmentation(rng, n_clips, per_clip)
        if augmentation is not None:
            share = augmentation[shares]
            batch["augmentation"] = torch.from_numpy(share.reshape(-1, *share.shape[2:])).float()
        return batch

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross entropy of a batch that is on the model's device."""
        inputs = batch["inputs"]
        if "augmentation" in batch:
            inputs = self.stream.augment(inputs, batch["augmentation"])
        logits = model(self.stream.normalize(inputs, self.model.specification))
        return self.objective.losses(logits, batch["targets"]).mean()

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measures over the validation clips' mean scores; empty where there are none."""
        if not self.validation:
            return {}
        device = next(model.parameters()).device
        model.eval()
        optimizer = self.settings.fit
        cuts = prefetch(
            self._test_samples,
            self.validation,
            threads=optimizer.loader_threads,
            ahead=max(optimizer.prefetch, 2 * optimizer.loader_threads),
        )
        scores: list[Tensor] = []
        waiting: list[tuple[Tensor, Tensor]] = []
        for i, samples in enumerate(cuts):
            waiting.append(samples)
            if sum(len(s) for s, _ in waiting) >= _AT_ONCE or i == len(self.validation) - 1:
                scores += self._scores(model, waiting, device)
                waiting = []
        model.train()
        return self.objective.measure(torch.stack(scores), self.validation)

    def _scores(
        self, model: nn.Module, clips: list[tuple[Tensor, Tensor]], device: torch.device
    ) -> list[Tensor]:
        inputs = torch.cat([samples for samples, _ in clips]).to(device)
        logits = model(self.stream.normalize(inputs, self.model.specification))
        each = self.objective.scores(logits).cpu().split([len(samples) for samples, _ in clips])
        return [weights @ part for part, (_, weights) in zip(each, clips, strict=True)]

    def _cut(self, example: Example, draws: np.ndarray) -> Tensor:
        """Random samples of a clip; draws (n, 4): position, crop down and right, flip."""
        clip = self.clips[example.artifact]
        n = self.stream.count_positions(clip)
        samples = self.stream.cut(clip, (draws[:, 0] * n).astype(int).tolist())
        return self.stream.crop(
            samples,
            self.model.specification,
            places=[(y, x) for _, y, x, _ in draws.tolist()],
            flips=[self.settings.flip and flip < 0.5 for *_, flip in draws.tolist()],
        )

    def _test_samples(self, example: Example) -> tuple[Tensor, Tensor]:
        clip, count = self.clips[example.artifact], self.settings.validation_samples
        return self.stream.uniform_samples(clip, count, self.model.specification)


def open_stream(
    name: str, settings: StreamSettings, *, n_classes: int | None, seed: int = 0
) -> tuple[Stream, Encoder]:
    """A stream and its encoder with the weights that it starts from.

    Args:
        name: the stream's name.
        settings: samples and encoder.
        n_classes: classes, C; a frozen encoder has none.
        seed: of the layers that start at random.

    Raises:
        UserError: no such kind of samples, encoder or weights; the side of the encoder's input is
            not known.
    """
    stream = make_stream(name, settings)
    encoder = build_encoder(
        settings.encoder_settings, in_channels=stream.channels, n_classes=n_classes, seed=seed
    )
    if stream.needs_side and stream.side(encoder.specification) is None:
        raise UserError(
            f"crop is null, but the pictures of stream {name!r} differ in size and "
            f"{settings.encoder!r} takes any: set the side of the square to cut, such as 224"
        )
    return stream, encoder


def check_input(encoder: Encoder, stream: Stream, clip: Media) -> None:
    """Checks that the samples of a clip go through an encoder.

    Raises:
        UserError: they do not.
    """
    shape = stream.sample_shape(clip, encoder.specification)
    training = encoder.training
    try:
        with torch.no_grad():
            encoder.eval()
            features = encoder.features(torch.zeros(1, *shape))
            if encoder.tail is not None:
                encoder.tail(features)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"{stream.settings.encoder} takes no samples of {shape[1]}x{shape[2]} pixels "
            f"({error}): set another crop, or null for the encoder's own size"
        ) from error
    finally:
        encoder.train(training)

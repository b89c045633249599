"""Fitting one stream's convolutional network on the samples cut from its clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from actors.artifact import ArtifactReader
from actors.errors import UserError
from actors.streams import AUDIO, SPATIAL
from trainers.encoders.backbones import StreamNetwork, build_network
from trainers.fit.examples import Example
from trainers.fit.prefetch import prefetch
from trainers.metrics.measures import summary
from trainers.streams.samples import (
    Clips,
    Media,
    count_positions,
    crop_samples,
    cut,
    normalize,
    sample_shape,
    uniform_samples,
)
from trainers.streams.settings import StreamSettings, default_stream_settings, input_channels

__all__ = ["Example", "StreamSettings", "StreamTask", "default_stream_settings"]

_AT_ONCE = 64
"""Samples that go through the network together in validation."""


class Targets:
    """Classes of a batch, and the loss they make.

    Args:
        examples: the training clips, which class weights are counted from.
        n_classes: classes, C.
        multi_label: a clip may have several classes, or none: independent sigmoids instead of one
            softmax.
        class_weights: weigh classes by their inverse frequency (mean weight 1 over the clips;
            multi-label: a class's positives by its negatives' number over theirs).
    """

    def __init__(
        self, examples: Sequence[Example], n_classes: int, *, multi_label: bool, class_weights: bool
    ) -> None:
        self.n_classes = n_classes
        self.multi_label = multi_label
        self._weights: Tensor | None = None
        if class_weights:
            counts = np.zeros(n_classes)
            for example in examples:
                counts[list(example.targets)] += 1
            safe = np.maximum(counts, 1)
            others = (len(examples) - counts) if multi_label else len(examples) / n_classes
            self._weights = torch.tensor(np.where(counts > 0, others / safe, 1.0)).float()

    def tensor(self, examples: Iterable[Example]) -> Tensor:
        """int64 (n,) classes; multi-label: float32 (n, C) of zeros and ones."""
        if not self.multi_label:
            return torch.tensor([example.targets[0] for example in examples])
        return torch.stack([_one_hot(example.targets, self.n_classes) for example in examples])

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of each row of logits (n, C), before any mean: (n,)."""
        weights = None if self._weights is None else self._weights.to(logits.device)
        if self.multi_label:
            each = binary_cross_entropy_with_logits(
                logits.float(), targets, pos_weight=weights, reduction="none"
            )
            return each.mean(1)
        each = cross_entropy(logits.float(), targets, reduction="none")
        return each if weights is None else each * weights[targets]

    def scores(self, logits: Tensor) -> Tensor:
        """Softmax, or sigmoid for multi-label data, in float32."""
        return logits.float().sigmoid() if self.multi_label else logits.float().softmax(-1)

    def measure(self, scores: Tensor, examples: Sequence[Example]) -> dict[str, float]:
        """Measures of scores (n, C): ``score``, which is maximized, ``loss``, and others."""
        targets = self.tensor(examples)
        clear = scores.double().clamp(1e-7, 1 - 1e-7)
        if self.multi_label:
            right = torch.where(targets > 0, clear, 1 - clear)
            loss = float(-right.log().mean())
        else:
            loss = float(-clear[torch.arange(len(targets)), targets].log().mean())
        measures = summary(scores.numpy(), targets.numpy(), multi_label=self.multi_label)
        return {**measures, "loss": loss}


class StreamTask:
    """What `trainers.fit.loop.fit` needs to fit a stream's network.

    A batch is a function of (seed, step) alone: which clips (a permutation per epoch), which
    positions, crops and flips. So a resumed fit sees what an undisturbed one sees.

    Args:
        stream: spatial, motion or audio.
        settings: network, sampling, optimizer.
        examples: clips that have the stream; those of split ``train`` are learned from, those of
            ``val`` validate.
        n_classes: classes, C.
        multi_label: see `Targets`.
        seed: of everything random.
        opener: opens an artifact.

    Raises:
        UserError: there are no training clips, or pictures are too small for the network.
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
        self.stream, self.settings, self.seed = stream, settings, seed
        self.train, self.validation = split_examples(examples, what=f"the {stream} stream")
        self.targets = Targets(
            self.train,
            n_classes,
            multi_label=multi_label,
            class_weights=settings.class_weights,
        )
        self.model = build_network(
            settings.network,
            in_channels=input_channels(stream, settings),
            n_classes=n_classes,
            seed=seed,
        )
        self.clips = Clips(
            open_files=settings.open_files, cache_mb=settings.cache_mb, opener=opener
        )
        self._check_size()

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """This rank's share of a step's samples: ``inputs`` as cut (uint8, or float32 for sound),
        ``targets``, and with color jitter ``gains`` (n, 3, 1, 1) of the colors."""
        per_clip = self.settings.samples_per_clip
        n_clips = self.settings.optimizer.batch_size // per_clip
        rng = np.random.default_rng([self.seed, step])
        draws = rng.random((n_clips, per_clip, 4))
        chosen = draw_examples(len(self.train), n_clips, step=step, seed=self.seed)
        shares = slice(rank, None, world_size)
        examples = [self.train[i] for i in chosen[shares]]
        inputs = [self._cut(e, d) for e, d in zip(examples, draws[shares], strict=True)]
        targets = self.targets.tensor(examples).repeat_interleave(per_clip, 0)
        batch = {"inputs": torch.cat(inputs), "targets": targets}
        if self.stream == SPATIAL and self.settings.color_jitter:
            gains = 1 + self.settings.color_jitter * (2 * rng.random((n_clips, per_clip, 3)) - 1)
            batch["gains"] = torch.from_numpy(gains[shares].reshape(-1, 3, 1, 1)).float()
        return batch

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross entropy of a batch that is on the model's device."""
        inputs = batch["inputs"]
        if "gains" in batch:
            inputs = (inputs * batch["gains"]).clamp_(max=255)
        logits = model(normalize(inputs, self.stream, self.settings))
        return self.targets.losses(logits, batch["targets"]).mean()

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measures over the validation clips' mean scores; empty where there are none."""
        if not self.validation:
            return {}
        device = next(model.parameters()).device
        model.eval()
        optimizer = self.settings.optimizer
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
        return self.targets.measure(torch.stack(scores), self.validation)

    def _scores(
        self, model: nn.Module, clips: list[tuple[Tensor, Tensor]], device: torch.device
    ) -> list[Tensor]:
        inputs = torch.cat([samples for samples, _ in clips]).to(device)
        logits = model(normalize(inputs, self.stream, self.settings))
        each = self.targets.scores(logits).cpu().split([len(samples) for samples, _ in clips])
        return [weights @ part for part, (_, weights) in zip(each, clips, strict=True)]

    def _cut(self, example: Example, draws: np.ndarray) -> Tensor:
        """Random samples of a clip; draws (n, 4): position, crop down and right, flip."""
        clip = self.clips[example.artifact]
        n = count_positions(clip, self.stream, self.settings)
        samples = cut(clip, self.stream, self.settings, (draws[:, 0] * n).astype(int).tolist())
        return crop_samples(
            samples,
            self.stream,
            self.settings,
            places=[(y, x) for _, y, x, _ in draws.tolist()],
            flips=[self.settings.flip and flip < 0.5 for *_, flip in draws.tolist()],
        )

    def _test_samples(self, example: Example) -> tuple[Tensor, Tensor]:
        count = self.settings.validation_samples
        return uniform_samples(self.clips[example.artifact], self.stream, self.settings, count)

    def _check_size(self) -> None:
        if self.stream != AUDIO and self.settings.crop is None:
            raise UserError(
                f"crop is null, but the {self.stream} stream's pictures differ in size: set the "
                "side of the square to cut, such as 224"
            )
        shape = sample_shape(self.clips[self.train[0].artifact], self.stream, self.settings)
        check_input(self.model, shape)


def check_input(network: StreamNetwork, shape: tuple[int, ...]) -> None:
    """Raises UserError when pictures of this shape (C, h, w) do not go through the network."""
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        name = network.description["network"]["backbone"]
        raise UserError(
            f"{name} takes no pictures of {shape[1]}x{shape[2]} pixels ({error}): set a larger crop"
        ) from error
    finally:
        network.train(training)


def split_examples(
    examples: Sequence[Example], *, what: str
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples, each in the order of their ids.

    Raises:
        UserError: nothing to learn from.
    """
    ordered = sorted(examples, key=lambda example: example.id)
    train = [example for example in ordered if example.split == "train"]
    if not train:
        raise UserError(
            f"no training clip has what {what} needs: of {len(examples)} clips none is in the "
            "split 'train'"
        )
    return train, [example for example in ordered if example.split == "val"]


def draw_examples(n: int, count: int, *, step: int, seed: int) -> list[int]:
    """The examples of a step: `count` from the sequence of all epochs' permutations of n."""
    first = step * count
    places = range(first, first + count)
    return [int(_permutation(n, seed, place // n)[place % n]) for place in places]


@lru_cache(maxsize=16)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, n]).permutation(n)


def _one_hot(targets: tuple[int, ...], n_classes: int) -> Tensor:
    row = torch.zeros(n_classes)
    row[list(targets)] = 1
    return row

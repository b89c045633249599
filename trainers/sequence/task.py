"""Fitting a sequence model on one stream's embedded clips."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from trainers.embedding import read_embedding
from trainers.fit.examples import Example, draw_examples, split_examples
from trainers.fit.objective import Objective
from trainers.sequence.factory import build_sequence_model
from trainers.sequence.model import SequenceModel
from trainers.settings import SequenceSettings

_AT_ONCE = 64
"""Clips that go through the network together in validation."""


class SequenceTask:
    """What `trainers.fit.loop.fit` needs to fit a sequence model on embedded clips.

    The loss is the cross entropy at every valid step, averaged over a clip's steps and then over
    clips; for a model without step logits, that of the clips' logits. A clip's scores are those of
    its clip logits (for LSTMs the last valid step's).

    Args:
        stream: whose features these are; only named in errors.
        settings: the model and its fit.
        examples: clips whose `artifact` is an embedding file (`trainers.embedding`).
        n_classes: classes, C.
        multi_label: sigmoids instead of a softmax.
        seed: of everything random.

    Raises:
        UserError: there are no training clips.
    """

    def __init__(
        self,
        stream: str,
        settings: SequenceSettings,
        examples: Sequence[Example],
        n_classes: int,
        multi_label: bool,
        seed: int,
    ) -> None:
        self.stream, self.settings, self.seed = stream, settings, seed
        self.train, self.validation = split_examples(
            examples, what=f"the sequence model of stream {stream!r}"
        )
        self.objective = Objective(
            self.train,
            n_classes,
            multi_label=multi_label,
            class_weights=settings.class_weights,
        )
        self._features = FeatureFiles(settings.cache_mb)
        first = self._features[self.train[0].artifact]
        self.model = build_sequence_model(
            settings, feature_dim=first.shape[1], n_classes=n_classes, seed=seed
        )
        if settings.standardize:
            mean, spread = feature_moments(self._features[e.artifact] for e in self.train)
            self.model.mean.copy_(mean)
            self.model.scale.copy_(1 / spread)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        """This rank's share of a step's clips: ``features`` (n, T, F) padded with zeros,
        ``lengths`` (n,), ``targets``."""
        count = self.settings.fit.batch_size
        chosen = draw_examples(len(self.train), count, step=step, seed=self.seed)
        return self._collate([self.train[i] for i in chosen[rank::world_size]])

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean over clips of the mean cross entropy over a clip's valid steps."""
        lengths = batch["lengths"]
        logits, clip_logits, _ = model(batch["features"], lengths)
        if logits is None:
            return self.objective.losses(clip_logits, batch["targets"]).mean()
        steps = logits.shape[1]
        targets = batch["targets"].repeat_interleave(steps, 0)
        each = self.objective.losses(logits.flatten(0, 1), targets).unflatten(0, (-1, steps))
        valid = torch.arange(steps, device=lengths.device) < lengths[:, None]
        return (torch.where(valid, each, 0).sum(1) / lengths).mean()

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measures over the validation clips; empty where there are none."""
        if not self.validation:
            return {}
        device = next(model.parameters()).device
        model.eval()
        scores = []
        for first in range(0, len(self.validation), _AT_ONCE):
            part = self._collate(self.validation[first : first + _AT_ONCE])
            _, logits, _ = model(part["features"].to(device), part["lengths"].to(device))
            scores.append(self.objective.scores(logits).cpu())
        model.train()
        return self.objective.measure(torch.cat(scores), self.validation)

    def _collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        sequences = [self._features[example.artifact] for example in examples]
        return {
            "features": pad_sequence(sequences, batch_first=True),
            "lengths": torch.tensor([len(sequence) for sequence in sequences]),
            "targets": self.objective.tensor(examples),
        }


class FeatureFiles:
    """Feature sequences of embedding files, kept in memory as far as it is allowed."""

    def __init__(self, cache_mb: int) -> None:
        self._bytes_left = cache_mb * 2**20
        self._kept: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    def __getitem__(self, place: str) -> Tensor:
        """float32 (T, F) of the embedding at a path or URI."""
        if place in self._kept:
            return self._kept[place]
        features = read_embedding(place).features
        with self._lock:
            if place not in self._kept and features.nbytes <= self._bytes_left:
                self._bytes_left -= features.nbytes
                self._kept[place] = features
        return features


def feature_moments(sequences: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over all steps of all clips: two (F,).

    A feature that never changes gets the deviation 1.
    """
    total = 0
    mean = square = torch.zeros(())
    for sequence in sequences:
        # Chan et al.'s merge of two parts' moments: exact in one pass, also far from zero.
        part = sequence.double()
        n, part_mean = len(part), part.mean(0)
        delta = part_mean - mean
        square = square + ((part - part_mean) ** 2).sum(0) + delta**2 * (total * n / (total + n))
        mean = mean + delta * (n / (total + n))
        total += n
    spread = (square / total).sqrt()
    return mean.float(), torch.where(spread > 1e-6, spread, 1.0).float()


def score_sequence(model: SequenceModel, features: Tensor, *, multi_label: bool = False) -> Tensor:
    """A clip's scores, float32 (C,) on the CPU; see `apply_sequence`."""
    return apply_sequence(model, features, multi_label=multi_label)[0]


@torch.no_grad()
def apply_sequence(
    model: SequenceModel, features: Tensor, *, multi_label: bool = False
) -> tuple[Tensor, Tensor]:
    """A clip's scores and embedding.

    Args:
        model: on any device, in evaluation mode.
        features: (T, F), at least one step.
        multi_label: sigmoid instead of softmax scores.

    Returns:
        Scores, float32 (C,), and clip embedding, float32 (E,), both on the CPU.
    """
    device = model.mean.device
    lengths = torch.tensor([len(features)], device=device)
    _, logits, embedding = model(features[None].to(device), lengths)
    row = logits[0].float()
    scores = row.sigmoid() if multi_label else row.softmax(-1)
    return scores.cpu(), embedding[0].float().cpu()

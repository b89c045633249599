"""What fits of encoders and sequence models minimize and measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from trainers.fit.examples import Example
from trainers.metrics.measures import summary


class Objective:
    """Targets of a batch, the loss of logits, and the measures of scores.

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


def _one_hot(targets: tuple[int, ...], n_classes: int) -> Tensor:
    row = torch.zeros(n_classes)
    row[list(targets)] = 1
    return row

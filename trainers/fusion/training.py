"""Training of the fusion network: Algorithm 1 of the Hybrid paper.

The objective, as it is minimized here (Eq. 3)::

    mean over clips of ||g(x) - y||^2  +  lambda1 * Phi(W)  +  q(W^E)

with Phi half the sum of squares of all weight matrices. The paper writes the sum over clips; with
the mean, learning rate 0.7 and the lambdas keep their meaning whatever the number of clips. The
squared error of a clip is summed over its classes. After each gradient step on all weights, W^E
goes through the proximal operator of ``learning_rate * q``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.errors import UserError
from trainers.fusion.network import FusionNetwork, check_clips
from trainers.fusion.proximal import proximal_step
from trainers.metrics.measures import accuracy, mean_average_precision
from trainers.settings import FusionSettings

__all__ = [
    "FusionClips",
    "FusionFit",
    "FusionNetwork",
    "FusionSettings",
    "fit_folds",
    "fit_fusion",
    "rank",
]

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class FusionClips:
    """Clips as the fusion network sees them; checked when made.

    Raises:
        ValueError: shapes that do not match, a clip without any stream, features or targets that
            are not finite.
    """

    features: Mapping[str, Tensor]
    """stream -> (N, D) float32; the rows of absent streams may hold anything."""
    present: Mapping[str, Tensor]
    """stream -> (N,) bool."""
    targets: Tensor
    """(N, C) float32 of 0 and 1; single-label rows are one-hot."""

    def __post_init__(self) -> None:
        check_clips(self.features, self.present, self.widths)
        if self.targets.ndim != 2 or len(self.targets) != len(next(iter(self.present.values()))):
            raise ValueError(f"targets must be (N, C), got {tuple(self.targets.shape)}")
        if not ((self.targets == 0) | (self.targets == 1)).all():
            raise ValueError("targets must be 0 or 1")

    @property
    def widths(self) -> dict[str, int]:
        return {name: values.shape[1] for name, values in self.features.items()}

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class FusionFit:
    """What training gives."""

    network: FusionNetwork
    """As it was after the best epoch (without validation clips: after the last)."""
    best: dict[str, float]
    """The best epoch's measures."""
    history: list[dict[str, float]]
    """Every epoch's measures."""
    held_out_scores: np.ndarray | None
    """(sum of held-out rows, C) probabilities after the best epoch, fold after fold."""


def fit_fusion(
    features: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    targets: Tensor,
    settings: FusionSettings,
    *,
    seed: int,
    validation: tuple[Mapping[str, Tensor], Mapping[str, Tensor], Tensor] | None = None,
    multi_label: bool = False,
    on_epoch: OnEpoch | None = None,
) -> FusionNetwork:
    """Trains the fusion network.

    Args:
        features: stream -> (N, D) float32, on the device to train on.
        present: stream -> (N,) bool.
        targets: (N, C) float of 0 and 1.
        settings: see `FusionSettings`.
        seed: of the weights, the order of the clips and the stream dropout.
        validation: the same three of clips that train nothing. With them, training stops when the
            `rank` (accuracy, multi-label: mAP; or the squared error) has not improved for
            ``patience`` epochs, and the best epoch's network is returned; without them, all
            epochs are run.
        multi_label: a clip may have several classes, or none.
        on_epoch: called with the epoch, from 1, and its measures.

    Raises:
        ValueError: clips that do not fit together (see `FusionClips`), a stream that no training
            clip has, single-label targets that are not one-hot.
    """
    clips = FusionClips(features, present, targets)
    held = FusionClips(*validation) if validation is not None else None
    return fit_folds(
        clips,
        [torch.arange(len(clips))],
        settings,
        seed=seed,
        held_out=None if held is None else (held, [torch.arange(len(held))]),
        multi_label=multi_label,
        on_epoch=on_epoch,
    ).network


def fit_folds(
    clips: FusionClips,
    training: Sequence[Tensor],
    settings: FusionSettings,
    *,
    seed: int,
    held_out: tuple[FusionClips, Sequence[Tensor]] | None = None,
    multi_label: bool = False,
    on_epoch: OnEpoch | None = None,
) -> FusionFit:
    """Trains one network per fold, in lockstep: step by step, all in the same batched products.

    Every fold starts from the same weights, and is trained exactly as it would be by itself. The
    score is taken over all folds' held-out clips in one pool, so that one epoch is the best for
    all of them, and no fold chooses an epoch by its own few clips.

    A stream that none of a fold's training clips has, as where one group alone has it and is held
    out, is hidden from that fold: the absent vector stands in for it, in its held-out clips too.

    Args:
        clips: all clips.
        training: for each fold, (n,) rows that train it.
        settings: see `FusionSettings`.
        seed: see `fit_fusion`.
        held_out: clips, and for each fold the rows of them that judge it.
        multi_label: see `fit_fusion`.
        on_epoch: see `fit_fusion`.

    Raises:
        ValueError: see `fit_fusion`; of several folds, a stream that none of them trains on.
    """
    known = _known(clips, training)
    _check(clips, training, known, multi_label)
    if held_out is not None and not held_out[0].targets.any():
        raise ValueError("no held-out clip has a label: nothing can be scored")
    device = clips.targets.device
    network = FusionNetwork(
        clips.widths,
        clips.targets.shape[1],
        settings,
        multi_label=multi_label,
        members=len(training),
        seed=seed,
    ).to(device)
    if settings.standardize:
        network.standardize_by(
            clips.features,
            [
                {name: rows[there[rows]] for name, there in clips.present.items()}
                for rows in (part.to(device) for part in training)
            ],
        )
    generators = [torch.Generator().manual_seed(seed + 1) for _ in training]
    history: list[dict[str, float]] = []
    best: dict[str, float] = {}
    best_state: dict[str, Tensor] = {}
    best_scores: np.ndarray | None = None
    for epoch in range(1, settings.max_epochs + 1):
        loss = _train_epoch(network, clips, training, generators)
        metrics = {"epoch": float(epoch), "loss": loss, **network.sparsity()}
        scores = None
        if held_out is not None:
            scores = _held_out_scores(network, *held_out, known)
            metrics |= _judge(scores, *held_out, multi_label=multi_label)
        history.append(metrics)
        better = held_out is None or not best or rank(metrics, settings) > rank(best, settings)
        if better:
            best, best_scores = metrics, scores
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        if on_epoch is not None:
            on_epoch(epoch, metrics)
        if epoch - best["epoch"] >= settings.patience:
            break
    network.load_state_dict(best_state)
    return FusionFit(network, best, history, best_scores)


def rank(metrics: Mapping[str, float], settings: FusionSettings) -> tuple[float, float]:
    """What the best has most of, and what decides between equals.

    Args:
        metrics: ``score`` and ``held_out_loss`` of an epoch, or of the best epoch of a point.
        settings: its ``keep`` says which of the two comes first.

    Returns:
        (score, -held_out_loss), or with ``keep="loss"`` the other way round.
    """
    order = metrics["score"], -metrics["held_out_loss"]
    return order if settings.keep == "score" else order[::-1]


def _known(clips: FusionClips, training: Sequence[Tensor]) -> dict[str, Tensor]:
    """Stream -> (M,) bool: whether a clip that trains the fold has the stream."""
    return {
        name: torch.stack([there[rows.to(there.device)].any() for rows in training])
        for name, there in clips.present.items()
    }


def _check(
    clips: FusionClips, training: Sequence[Tensor], known: Mapping[str, Tensor], multi_label: bool
) -> None:
    for fold, rows in enumerate(training):
        if not len(rows):
            raise ValueError(f"fold {fold} of {len(training)} has no clip to train on")
    for name, folds in known.items():
        if not folds.any():
            raise ValueError(f"no training clip has the stream {name!r}: leave it out")
    if not multi_label:
        bad = (clips.targets.sum(1) != 1).nonzero()[:5, 0].tolist()
        if bad:
            raise ValueError(
                f"clips at rows {bad} do not have exactly one label; pass multi_label=True"
            )


def _train_epoch(
    network: FusionNetwork,
    clips: FusionClips,
    training: Sequence[Tensor],
    generators: Sequence[torch.Generator],
) -> float:
    """One pass over the clips of all folds; returns the mean squared error on the way."""
    settings = network.settings
    parameters = [value for value in network.parameters() if value.requires_grad]
    weights = {id(weight) for weight in network.weights()}
    total, batches = 0.0, 0
    for rows, share in _batches(training, settings.batch_size, generators):
        features, present, targets = _gather(clips, rows)
        if settings.input_noise:
            features = _disturb(network, features, generators)
        if settings.stream_dropout:
            present = _hide(present, settings.stream_dropout, generators)
        errors = ((network(features, present) - targets) ** 2).sum(-1)
        # Members share no weight: the gradient of the sum is each member's own.
        loss = (errors * share.to(errors)).sum()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if id(parameter) in weights:
                    gradient = gradient + settings.lambda1 * parameter
                parameter.sub_(settings.learning_rate * gradient)
            network.fusion.copy_(
                proximal_step(
                    network.fusion,
                    step=settings.learning_rate,
                    lambda2=settings.lambda2,
                    lambda3=settings.lambda3,
                )
            )
        total, batches = total + loss.item() / len(training), batches + 1
    if not math.isfinite(total):
        raise UserError(
            f"fusion training diverged: lower fusion.learning_rate ({settings.learning_rate})"
        )
    return total / batches


def _batches(
    training: Sequence[Tensor], size: int, generators: Sequence[torch.Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (M, B) rows and (M, B) weights, which sum to 1 for each member.

    Each member sees each of its clips once. Folds differ by some clips, so their batches do too:
    the shorter are filled up with a clip of weight 0.
    """
    steps = -(-max(len(rows) for rows in training) // size)
    orders = [
        torch.tensor_split(rows[torch.randperm(len(rows), generator=generator)], steps)
        for rows, generator in zip(training, generators, strict=True)
    ]
    for parts in zip(*orders, strict=True):
        longest = max(len(part) for part in parts)
        rows = torch.zeros(len(parts), longest, dtype=torch.long)
        share = torch.zeros(len(parts), longest)
        for member, part in enumerate(parts):
            rows[member, : len(part)] = part
            share[member, : len(part)] = 1 / max(len(part), 1)
        yield rows, share


def _gather(
    clips: FusionClips, rows: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Stream -> (M, B, D), stream -> (M, B) and (M, B, C) of (M, B) rows."""
    rows = rows.to(clips.targets.device)
    return (
        {name: values[rows].float() for name, values in clips.features.items()},
        {name: there[rows] for name, there in clips.present.items()},
        clips.targets[rows].float(),
    )


def _disturb(
    network: FusionNetwork, features: dict[str, Tensor], generators: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    """Adds Gaussian noise of `input_noise` times each feature's own spread."""
    noisy = {}
    for name, values in features.items():
        drawn = torch.stack([torch.randn(values.shape[1:], generator=one) for one in generators])
        scale = network.settings.input_noise * network.spread(name)
        noisy[name] = values + scale * drawn.to(values.device)
    return noisy


def _hide(
    present: dict[str, Tensor], chance: float, generators: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    """Hides streams at random; a clip that would have none left keeps those it has."""
    there = torch.stack(list(present.values()), dim=1)
    drawn = torch.stack([torch.rand(there.shape[1:], generator=one) for one in generators])
    kept = there & (drawn.to(there.device) >= chance)
    kept = torch.where(kept.any(1, keepdim=True), kept, there)
    return dict(zip(present, kept.unbind(1), strict=True))


@torch.no_grad()
def _held_out_scores(
    network: FusionNetwork,
    clips: FusionClips,
    rows: Sequence[Tensor],
    known: Mapping[str, Tensor],
) -> np.ndarray:
    """(sum of rows, C) probabilities of each member's own held-out clips, member after member."""
    longest = max(len(part) for part in rows)
    padded = torch.stack([torch.nn.functional.pad(part, (0, longest - len(part))) for part in rows])
    outputs = []
    for start in range(0, longest, 1024):
        features, present, _ = _gather(clips, padded[:, start : start + 1024])
        present = {name: there & known[name][:, None] for name, there in present.items()}
        outputs.append(network(features, present).cpu())
    scores = torch.cat(outputs, dim=1)
    return torch.cat([scores[m, : len(part)] for m, part in enumerate(rows)]).numpy()


def _judge(
    scores: np.ndarray, clips: FusionClips, rows: Sequence[Tensor], *, multi_label: bool
) -> dict[str, Any]:
    """The score and the mean squared error over all held-out clips in one pool."""
    targets = clips.targets.cpu()[torch.cat(list(rows))].numpy()
    error = float(((scores - targets) ** 2).sum(1).mean())
    if multi_label:
        return {"score": mean_average_precision(scores, targets).value, "held_out_loss": error}
    return {"score": accuracy(scores, targets.argmax(1)), "held_out_loss": error}

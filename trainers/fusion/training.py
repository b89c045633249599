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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.errors import UserError
from trainers.fit.folds import Rows
from trainers.fusion.batches import Streams, TableTensors, batches, hide_streams
from trainers.fusion.contract import OnEpoch
from trainers.fusion.network import FusionNetwork
from trainers.fusion.proximal import proximal_step
from trainers.metrics.measures import accuracy, mean_average_precision
from trainers.settings import FusionSettings
from trainers.table import Table

__all__ = ["FusionFit", "fit_folds", "fit_fusion", "rank"]

Known = dict[str, Tensor]
"""Stream -> (M,) bool: whether a clip that trains the member has the stream."""


@dataclass(frozen=True)
class FusionFit:
    """The result of `fit_folds`."""

    network: FusionNetwork
    """As it was after the best epoch (without held-out clips: after the last); a member per fold.
    """
    best: dict[str, float]
    """The best epoch's measures."""
    history: list[dict[str, float]]
    """Every epoch's measures."""
    held_out_scores: NDArray[np.float32] | None
    """(sum of held-out rows, C) probabilities after the best epoch, fold after fold."""


def fit_fusion(
    table: Table,
    settings: FusionSettings,
    *,
    seed: int,
    validation: Table | None = None,
    on_epoch: OnEpoch | None = None,
    device: str | torch.device = "cpu",
) -> FusionNetwork:
    """Trains the fusion network.

    Args:
        table: the clips to train on; features are streams' mean embeddings.
        settings: see `FusionSettings`.
        seed: of the weights, the order of the clips and the stream dropout.
        validation: clips that train nothing. With them, training stops when the `rank` (accuracy,
            multi-label: mAP; or the squared error) has not improved for ``patience`` epochs, and
            the best epoch's network is returned; without them, all epochs are run.
        on_epoch: called with the epoch, from 1, and its measures.
        device: to train on.

    Raises:
        ValueError: a clip without any stream, a stream that no training clip has, single-label
            clips without a label, validation clips of other streams or classes.
        UserError: training diverged.
    """
    held_out = None if validation is None else (validation, [np.arange(len(validation))])
    return fit_folds(
        table,
        [np.arange(len(table))],
        settings,
        seed=seed,
        held_out=held_out,
        on_epoch=on_epoch,
        device=device,
    ).network


def fit_folds(
    table: Table,
    training: Sequence[Rows],
    settings: FusionSettings,
    *,
    seed: int,
    held_out: tuple[Table, Sequence[Rows]] | None = None,
    on_epoch: OnEpoch | None = None,
    device: str | torch.device = "cpu",
) -> FusionFit:
    """Trains one network per fold, in lockstep: step by step, all in the same batched products.

    Every fold starts from the same weights, and is trained exactly as it would be by itself. The
    score is taken over all folds' held-out clips in one pool, so that one epoch is the best for
    all of them, and no fold chooses an epoch by its own few clips.

    A stream that none of a fold's training clips has, as where one group alone has it and is held
    out, is hidden from that fold: the absent vector stands in for it, in its held-out clips too.

    Args:
        table: all clips.
        training: for each fold, (n,) rows that train it.
        settings: see `FusionSettings`.
        seed: see `fit_fusion`.
        held_out: clips, and for each fold the rows of them that are scored by it.
        on_epoch: see `fit_fusion`.
        device: see `fit_fusion`.

    Raises:
        ValueError: see `fit_fusion`; of several folds, a stream that none of them trains on.
        UserError: training diverged.
    """
    _check(table, training, None if held_out is None else held_out[0])
    data = TableTensors(table, torch.device(device))
    rows = [torch.from_numpy(part) for part in training]
    known = _known_streams(data, rows)
    network = FusionNetwork(
        table.widths,
        table.targets.n_classes,
        settings,
        multi_label=table.multi_label,
        members=len(training),
        seed=seed,
    ).to(data.device)
    if settings.standardize:
        _standardize(network, data, rows)
    held = None if held_out is None else _HeldOut(data, table, known, *held_out)
    generators = [torch.Generator().manual_seed(seed + 1) for _ in training]
    history: list[dict[str, float]] = []
    best: dict[str, float] = {}
    best_state: dict[str, Tensor] = {}
    best_scores: NDArray[np.float32] | None = None
    for epoch in range(1, settings.max_epochs + 1):
        loss = _train_epoch(network, data, rows, generators)
        metrics = {"epoch": float(epoch), "loss": loss, **network.sparsity()}
        scores = None
        if held is not None:
            scores = held.scores(network)
            metrics |= held.evaluate(scores)
        history.append(metrics)
        if held is None or not best or rank(metrics, settings) > rank(best, settings):
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


def _check(table: Table, training: Sequence[Rows], held_out: Table | None) -> None:
    for fold, rows in enumerate(training):
        if not len(rows):
            raise ValueError(f"fold {fold} of {len(training)} has no clip to train on")
    table.check_everywhere()
    absent = [
        name
        for name, there in table.present.items()
        if not any(there[rows].any() for rows in training)
    ]
    if absent:
        raise ValueError(f"no training clip has the stream {absent[0]!r}: leave it out")
    if not table.multi_label:
        table.targets.classes()
    if held_out is not None:
        _check_held_out(table, held_out)


def _check_held_out(table: Table, held_out: Table) -> None:
    held_out.check_everywhere()
    if table.widths != held_out.widths:
        raise ValueError(f"training clips have features {table.widths}, others {held_out.widths}")
    if table.targets.n_classes != held_out.targets.n_classes:
        raise ValueError(
            f"training clips have {table.targets.n_classes} classes, held-out clips "
            f"{held_out.targets.n_classes}"
        )
    if not held_out.targets.indices.size:
        raise ValueError("no held-out clip has a label: nothing can be scored")
    if not table.multi_label:
        held_out.targets.classes()


def _known_streams(data: TableTensors, training: Sequence[Tensor]) -> Known:
    return {
        name: torch.stack([there[rows.to(there.device)].any() for rows in training])
        for name, there in data.present.items()
    }


def _standardize(network: FusionNetwork, data: TableTensors, training: Sequence[Tensor]) -> None:
    network.standardize_by(
        data.features,
        [
            {name: rows[there[rows]] for name, there in data.present.items()}
            for rows in (part.to(data.device) for part in training)
        ],
    )


def _train_epoch(
    network: FusionNetwork,
    data: TableTensors,
    training: Sequence[Tensor],
    generators: Sequence[torch.Generator],
) -> float:
    """One pass over the clips of all folds; returns the mean squared error on the way."""
    settings = network.settings
    parameters = [value for value in network.parameters() if value.requires_grad]
    weights = {id(weight) for weight in network.weights()}
    total, steps = 0.0, 0
    for rows, share in batches(training, settings.batch_size, generators):
        features, present = data.gather(rows)
        if settings.input_noise:
            features = _with_noise(network, features, generators)
        if settings.stream_dropout:
            present = hide_streams(present, settings.stream_dropout, generators)
        errors = ((network(features, present) - data.gather_targets(rows)) ** 2).sum(-1)
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
        total, steps = total + loss.item() / len(training), steps + 1
    if not math.isfinite(total):
        raise UserError(
            f"fusion training diverged: lower fusion.learning_rate ({settings.learning_rate})"
        )
    return total / steps


def _with_noise(
    network: FusionNetwork, features: Streams, generators: Sequence[torch.Generator]
) -> Streams:
    """Adds Gaussian noise of `input_noise` times each feature's own spread."""
    noisy = {}
    for name, values in features.items():
        drawn = torch.stack([torch.randn(values.shape[1:], generator=one) for one in generators])
        scale = network.settings.input_noise * network.spread(name)
        noisy[name] = values + scale * drawn.to(values.device)
    return noisy


class _HeldOut:
    """Each fold's held-out clips: their scores, and the measures over all of them in one pool."""

    def __init__(
        self,
        training: TableTensors,
        trained_on: Table,
        known: Known,
        table: Table,
        rows: Sequence[Rows],
    ) -> None:
        self.data = training if table is trained_on else TableTensors(table, training.device)
        self.known = known
        self.rows = [torch.from_numpy(part) for part in rows]
        self.order = np.concatenate(list(rows))

    @torch.no_grad()
    def scores(self, network: FusionNetwork) -> NDArray[np.float32]:
        """(sum of rows, C) probabilities of each member's own clips, member after member."""
        longest = max(len(part) for part in self.rows)
        padded = torch.stack(
            [torch.nn.functional.pad(part, (0, longest - len(part))) for part in self.rows]
        )
        outputs = []
        for start in range(0, longest, 1024):
            features, present = self.data.gather(padded[:, start : start + 1024])
            present = {name: there & self.known[name][:, None] for name, there in present.items()}
            outputs.append(network(features, present).cpu())
        scores = torch.cat(outputs, dim=1)
        return torch.cat([scores[m, : len(part)] for m, part in enumerate(self.rows)]).numpy()

    def evaluate(self, scores: NDArray[np.float32]) -> dict[str, float]:
        """The score (accuracy, multi-label: mAP) and the mean squared error."""
        chosen = self.data.targets[self.order]
        dense = chosen.dense()
        error = float(((scores - dense) ** 2).sum(1).mean())
        if chosen.multi_label:
            value = mean_average_precision(scores, dense).value
        else:
            value = accuracy(scores, chosen.classes())
        return {"score": value, "held_out_loss": error}

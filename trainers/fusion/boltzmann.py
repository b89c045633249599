"""The deep Boltzmann machine of M-DBM: its energy, mean field and chains, and how it is trained.

Srivastava and Salakhutdinov, *Multimodal learning with deep Boltzmann machines* (JMLR 2014). Each
stream m has a tower of two binary layers over Gaussian visible units of variance 1; a joint binary
layer lies over all towers::

    E = Σ_m [½‖v_m - b_m‖² - v_mᵀ W_m h¹_m - h¹_mᵀ U_m h²_m - h²_mᵀ J_m h³
             - c_mᵀ h¹_m - d_mᵀ h²_m] - eᵀ h³

Training is greedy first, a restricted Boltzmann machine per layer by one step of contrastive
divergence (with the doubled weights of Salakhutdinov and Hinton, 2009); then of the whole at once:
mean-field for the expectations under the data, persistent chains for those under the model. None of
it sees a label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlogy

from trainers.fusion.method import Bools, Floats


@dataclass(frozen=True)
class DBMSettings:
    """Shape and training of the machine."""

    first: int = 200
    """Units of a tower's first hidden layer."""
    second: int = 200
    """Units of its second."""
    joint: int = 200
    """Units of the joint layer."""
    pretraining_steps: int = 1500
    """Steps per layer of the greedy pre-training."""
    steps: int = 600
    """Steps of the joint training."""
    learning_rate: float = 1e-2
    """Of the binary layers; a tenth of it where units are Gaussian; falls to 0 linearly."""
    batch_size: int = 50
    """Clips per step, and number of persistent chains."""
    mean_field_steps: int = 10
    """Most turns of the mean field; it ends earlier once it rests."""
    weight_decay: float = 1e-3
    """Of all weights."""


@dataclass
class Tower:
    """One stream's weights."""

    w: Floats
    """(D, first)."""
    u: Floats
    """(first, second)."""
    j: Floats
    """(second, joint)."""
    b: Floats
    """(D,) visible."""
    c: Floats
    """(first,)."""
    d: Floats
    """(second,)."""


@dataclass
class Field:
    """Mean-field parameters of N clips; also states of Gibbs chains."""

    visible: list[Floats]
    """Per tower (N, D): the features; of absent streams their mean-field means."""
    first: list[Floats]
    """Per tower (N, first)."""
    second: list[Floats]
    """Per tower (N, second)."""
    joint: Floats
    """(N, joint)."""


class BoltzmannMachine:
    """The deep Boltzmann machine: its energy, mean field and chains."""

    def __init__(self, towers: Sequence[Tower], joint_bias: Floats) -> None:
        self.towers, self.e = list(towers), joint_bias

    def in_double_precision(self) -> BoltzmannMachine:
        """A copy whose free energy is exact enough to be compared from step to step."""
        towers = [
            Tower(*(getattr(t, name).astype(np.float64) for name in "wujbcd")) for t in self.towers
        ]
        return BoltzmannMachine(towers, self.e.astype(np.float64))

    def start(self, visible: Sequence[Floats], there: Sequence[Bools]) -> Field:
        """A bottom-up pass, doubled where the input from above is missing."""
        shown = [
            np.where(known[:, None], v, t.b)
            for t, v, known in zip(self.towers, visible, there, strict=True)
        ]
        first = [expit(2 * v @ t.w + t.c) for t, v in zip(self.towers, shown, strict=True)]
        second = [expit(2 * h @ t.u + t.d) for t, h in zip(self.towers, first, strict=True)]
        return Field(shown, first, second, expit(self._to_joint(second)))

    def mean_field(
        self, visible: Sequence[Floats], there: Sequence[Bools], steps: int
    ) -> Iterator[Field]:
        """The field at the start and after each update of every second layer.

        Each update is the exact minimum of the free energy over its layers, so that it falls.

        Args:
            visible: per tower (N, D).
            there: per tower (N,), whether the clip has the stream; else its visible units are
                inferred like hidden ones.
            steps: turns of both halves.
        """
        field = self.start(visible, there)
        yield field
        for _ in range(steps):
            first = [self._to_first(n, field) for n in range(len(self.towers))]
            field = Field(field.visible, first, field.second, expit(self._to_joint(field.second)))
            yield field
            second = [self._to_second(n, field) for n in range(len(self.towers))]
            shown = [
                np.where(known[:, None], v, self._to_visible(n, field))
                for n, (v, known) in enumerate(zip(visible, there, strict=True))
            ]
            field = Field(shown, field.first, second, field.joint)
            yield field

    def infer(self, visible: Sequence[Floats], there: Sequence[Bools], steps: int) -> Field:
        """The mean field when it rests (no upper unit moves by 1e-4), or after the steps."""
        last: Floats | None = None
        for number, field in enumerate(self.mean_field(visible, there, steps)):
            # The joint layer follows the second ones by half a turn.
            if number % 2 == 0:
                upper = np.concatenate([*field.second, field.joint], axis=1)
                if last is not None and np.abs(upper - last).max() < 1e-4:
                    return field
                last = upper
        return field

    def free_energy(self, field: Field) -> Floats:
        """(N,) variational free energy E_q[E] - H(q), up to a constant of the Gaussian units."""
        total = -field.joint @ self.e - _entropy(field.joint)
        layers = zip(self.towers, field.visible, field.first, field.second, strict=True)
        for t, v, one, two in layers:
            total += 0.5 * ((v - t.b) ** 2).sum(1) - one @ t.c - two @ t.d
            total -= ((v @ t.w) * one).sum(1) + ((one @ t.u) * two).sum(1)
            total -= ((two @ t.j) * field.joint).sum(1) + _entropy(one) + _entropy(two)
        return total

    def gibbs(self, chains: Field, random: np.random.Generator) -> Field:
        """One full sweep over chains of N states."""
        towers = range(len(self.towers))
        first = [_draw(self._to_first(n, chains), random) for n in towers]
        joint = _draw(expit(self._to_joint(chains.second)), random)
        chains = Field(chains.visible, first, chains.second, joint)
        second = [_draw(self._to_second(n, chains), random) for n in towers]
        means = [self._to_visible(n, chains) for n in towers]
        visible = [mean + _normal(mean, random) for mean in means]
        return Field(visible, first, second, joint)

    def _to_first(self, n: int, field: Field) -> Floats:
        t = self.towers[n]
        return expit(field.visible[n] @ t.w + field.second[n] @ t.u.T + t.c)

    def _to_second(self, n: int, field: Field) -> Floats:
        t = self.towers[n]
        return expit(field.first[n] @ t.u + field.joint @ t.j.T + t.d)

    def _to_visible(self, n: int, field: Field) -> Floats:
        t = self.towers[n]
        return field.first[n] @ t.w.T + t.b

    def _to_joint(self, second: Sequence[Floats]) -> Floats:
        return sum((h @ t.j for t, h in zip(self.towers, second, strict=True)), self.e)

    def step(self, data: Field, model: Field, rate: float, decay: float) -> None:
        """One step up the likelihood: expectations under the data less those under the model."""
        n, m = len(data.joint), len(model.joint)
        self.e += rate * (data.joint.mean(0) - model.joint.mean(0))
        for k, t in enumerate(self.towers):
            v, one, two = data.visible[k], data.first[k], data.second[k]
            mv, mone, mtwo = model.visible[k], model.first[k], model.second[k]
            gaussian = rate / 10
            t.w += gaussian * (v.T @ one / n - mv.T @ mone / m - decay * t.w)
            t.u += rate * (one.T @ two / n - mone.T @ mtwo / m - decay * t.u)
            t.j += rate * (two.T @ data.joint / n - mtwo.T @ model.joint / m - decay * t.j)
            t.b += gaussian * (v.mean(0) - mv.mean(0))
            t.c += rate * (one.mean(0) - mone.mean(0))
            t.d += rate * (two.mean(0) - mtwo.mean(0))


def fit_machine(
    visible: Sequence[Floats], there: Sequence[Bools], settings: DBMSettings, *, seed: int
) -> BoltzmannMachine:
    """Greedy pre-training, then joint training.

    Args:
        visible: per stream (N, D), standardized, zero where absent.
        there: per stream (N,).
    """
    random = np.random.default_rng(seed)
    # Training is noisy by nature, and twice as fast in single precision.
    visible = [v.astype(np.float32) for v in visible]
    towers, tops = [], []
    for v, known in zip(visible, there, strict=True):
        seen = v[known]
        w, b, c = fit_rbm(seen, settings.first, settings, random, up=2, gaussian=True)
        hidden = expit(2 * seen @ w + c)
        u, _, d = fit_rbm(hidden, settings.second, settings, random, up=2, down=2)
        filled = np.where(known[:, None], v, b)
        tops.append(expit(2 * expit(2 * filled @ w + c) @ u + d))
        towers.append((w, u, b, c, d))
    joint, _, e = fit_rbm(np.concatenate(tops, 1), settings.joint, settings, random, down=2)
    parts = np.split(joint, len(towers))
    machine = BoltzmannMachine(
        [Tower(w, u, j, b, c, d) for (w, u, b, c, d), j in zip(towers, parts, strict=True)], e
    )
    _train_jointly(machine, visible, there, settings, random)
    return machine.in_double_precision()


def fit_rbm(
    visible: Floats,
    hidden: int,
    settings: DBMSettings,
    random: np.random.Generator,
    *,
    up: int = 1,
    down: int = 1,
    gaussian: bool = False,
) -> tuple[Floats, Floats, Floats]:
    """Weights (D, hidden) and biases of both sides by one-step contrastive divergence.

    Args:
        visible: (N, D) real values of variance 1 with ``gaussian``; else probabilities.
        up, down: by how much the weights count either way; 2 stands in for a layer that the whole
            machine will have on the other side.
    """
    kind = visible.dtype
    w = (0.01 * random.standard_normal((visible.shape[1], hidden))).astype(kind)
    b, c = np.zeros(visible.shape[1], kind), np.zeros(hidden, kind)
    speed = [np.zeros_like(w), np.zeros_like(b), np.zeros_like(c)]
    steps = settings.pretraining_steps
    for step, rows in enumerate(_batches(len(visible), settings.batch_size, steps, random)):
        rate = settings.learning_rate * (1 - step / steps) / (10 if gaussian else 1)
        momentum = 0.5 if step < 0.05 * steps else 0.9
        v = visible[rows]
        h = expit(up * v @ w + c)
        back = down * _draw(h, random) @ w.T + b
        model = back if gaussian else expit(back)
        again = expit(up * model @ w + c)
        slopes = (
            (v.T @ h - model.T @ again) / len(rows) - settings.weight_decay * w,
            (v - model).mean(0),
            (h - again).mean(0),
        )
        for value, velocity, slope in zip((w, b, c), speed, slopes, strict=True):
            velocity *= momentum
            velocity += rate * slope
            value += velocity
    return w, b, c


def _train_jointly(
    machine: BoltzmannMachine,
    visible: Sequence[Floats],
    there: Sequence[Bools],
    settings: DBMSettings,
    random: np.random.Generator,
) -> None:
    count = len(there[0])
    rows = random.integers(0, count, settings.batch_size)
    chains = machine.start([v[rows] for v in visible], [known[rows] for known in there])
    for step, rows in enumerate(_batches(count, settings.batch_size, settings.steps, random)):
        data = machine.infer(
            [v[rows] for v in visible],
            [known[rows] for known in there],
            settings.mean_field_steps,
        )
        chains = machine.gibbs(chains, random)
        rate = settings.learning_rate * (1 - step / settings.steps)
        machine.step(data, chains, rate, settings.weight_decay)


def _entropy(mean: Floats) -> Floats:
    return np.asarray(-(xlogy(mean, mean) + xlogy(1 - mean, 1 - mean)).sum(1))


def _draw(mean: Floats, random: np.random.Generator) -> Floats:
    return (random.random(mean.shape, np.float32) < mean).astype(mean.dtype)


def _normal(like: Floats, random: np.random.Generator) -> Floats:
    return random.standard_normal(like.shape, np.float32).astype(like.dtype)


def _batches(
    count: int, size: int, steps: int, random: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Rows of each step; every clip is seen once before any is seen again."""
    done = 0
    while True:
        for rows in np.array_split(random.permutation(count), max(1, -(-count // size))):
            if done == steps:
                return
            yield rows
            done += 1

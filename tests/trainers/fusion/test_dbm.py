"""The multimodal deep Boltzmann machine."""

from itertools import product

import numpy as np
import pytest
from made_clips import accuracy, make, split

from trainers.fusion.boltzmann import BoltzmannMachine, DBMSettings, Tower, fit_rbm
from trainers.fusion.dbm import LinearLayer, MultimodalDBM
from trainers.table import Table
from trainers.targets import Targets

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = DBMSettings(first=24, second=24, joint=24, pretraining_steps=800, steps=200)


def tiny_machine(seed: int = 0) -> BoltzmannMachine:
    random = np.random.default_rng(seed)

    def tower(width: int) -> Tower:
        shapes = (width, 2), (2, 2), (2, 2), (width,), (2,), (2,)
        return Tower(*(random.standard_normal(shape) for shape in shapes))

    return BoltzmannMachine([tower(3), tower(2)], random.standard_normal(2))


def test_the_free_energy_falls_at_every_mean_field_step() -> None:
    random = np.random.default_rng(1)
    machine = tiny_machine()
    visible = [random.standard_normal((50, 3)), random.standard_normal((50, 2))]
    there = [random.random(50) < 0.6, random.random(50) < 0.6]
    energies = np.stack(
        [machine.free_energy(field) for field in machine.mean_field(visible, there, 20)]
    )
    assert len(energies) == 41
    assert (np.diff(energies, axis=0) <= 1e-9).all()
    assert (energies[-1] < energies[0] - 1e-3).all()


def test_the_free_energy_falls_in_a_trained_machine() -> None:
    made = make(60, absent=0.3)
    method = MultimodalDBM(SMALL).fit(made)
    visible, there = method._arrays(made)
    fields = list(method.machine.mean_field(visible, there, 10))
    energies = np.stack([method.machine.free_energy(field) for field in fields])
    assert (np.diff(energies, axis=0) <= 1e-9).all()


def test_the_free_energy_bounds_the_exact_one() -> None:
    """F(q) >= -log sum over all hidden states of exp(-E); a sharp q reaches one state's energy."""
    machine = tiny_machine()
    random = np.random.default_rng(2)
    visible = [random.standard_normal((1, 3)), random.standard_normal((1, 2))]
    energies = []
    for bits in product((0.0, 1.0), repeat=10):
        h = np.array(bits)[None]
        energy = -h[:, 8:] @ machine.e
        for n, t in enumerate(machine.towers):
            v, one, two = visible[n], h[:, 4 * n : 4 * n + 2], h[:, 4 * n + 2 : 4 * n + 4]
            energy = energy + 0.5 * ((v - t.b) ** 2).sum() - one @ t.c - two @ t.d
            energy = energy - v @ t.w @ one.T - one @ t.u @ two.T - two @ t.j @ h[:, 8:].T
        energies.append(energy.item())
    exact = -np.log(np.exp(-np.array(energies)).sum())
    there = [np.ones(1, bool)] * 2
    found = machine.free_energy(machine.infer(visible, there, 100))[0]
    assert exact <= found <= min(energies) + 1e-6
    assert found - exact < 2


def test_an_absent_streams_units_are_inferred_from_the_others() -> None:
    """Two streams that always agree: the one tells what the other must be."""
    random = np.random.default_rng(0)
    sign = np.where(random.random(300) < 0.5, 1.0, -1.0)
    features = {name: sign[:, None] + 0.3 * random.standard_normal((300, 6)) for name in "ab"}
    there = {name: np.ones(300, bool) for name in "ab"}
    targets = np.stack([sign > 0, sign < 0], 1).astype(float)
    method = MultimodalDBM(SMALL).fit(Table.of(features, there, Targets.from_dense(targets)))
    lacking = Table.of(features, {"a": there["a"], "b": np.zeros(300, bool)})
    visible, known = method._arrays(lacking)
    inferred = method.machine.infer(visible, known, 20).visible[1].mean(1)
    assert (np.sign(inferred) == sign).mean() > 0.95
    scores = method.predict_scores(lacking)
    assert (scores.argmax(1) == targets.argmax(1)).mean() > 0.95


def test_pretraining_makes_reconstructions_better() -> None:
    made = make(200, noise=0.2)
    values = made.features["a"]
    values = (values - values.mean(0)) / values.std(0)
    random = np.random.default_rng(0)
    w, b, c = fit_rbm(values, 16, SMALL, random, up=2, gaussian=True)
    hidden = 1 / (1 + np.exp(-(2 * values @ w + c)))
    assert ((hidden @ w.T + b - values) ** 2).mean() < 0.8 * (values**2).mean()


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_machine_knows_what_no_single_stream_does(multi_label: bool) -> None:
    train, test = split(make(240, absent=0.1, noise=0.3, multi_label=multi_label))
    method = MultimodalDBM(SMALL).fit(train)
    scores = method.predict_scores(test)
    if multi_label:
        assert ((scores > 0.5) == test.targets.dense(bool)).mean() > 0.85
        return
    np.testing.assert_allclose(scores.sum(1), 1)
    assert accuracy(scores, test) > 0.7


def test_the_same_seed_gives_the_same_scores() -> None:
    made = make(60)
    first, again = (MultimodalDBM(SMALL, seed=3).fit(made) for _ in range(2))
    np.testing.assert_array_equal(first.predict_scores(made), again.predict_scores(made))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_linear_layer_rests_at_its_minimum(multi_label: bool) -> None:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((80, 5))
    targets = np.eye(3)[(inputs[:, 0] > 0).astype(int)]
    layer = LinearLayer.fit(inputs, targets, 0.1, multi_label=multi_label)
    slope = inputs.T @ (layer(inputs) - targets) / 80 + 0.1 * layer.weights
    assert np.abs(slope).max() < 1e-4

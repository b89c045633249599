from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.errors import UserError
from trainers.embedding import Embedding
from trainers.fit.examples import Example
from trainers.fit.loop import fit
from trainers.network_files import network_from_bytes, network_to_bytes
from trainers.sequence.factory import build_sequence_model
from trainers.sequence.model import SequenceModel
from trainers.sequence.recurrent import PeepholeLSTM
from trainers.sequence.task import SequenceTask, apply_sequence, feature_moments, score_sequence
from trainers.settings import OptimizerSettings, SequenceSettings


def reference_peephole(layer: PeepholeLSTM, x: np.ndarray) -> np.ndarray:
    """The paper's equations, one clip and one step at a time, in float64."""
    w_x, w_h, peep, bias = (
        p.detach().numpy().astype(np.float64)
        for p in (layer.weight_input, layer.weight_hidden, layer.weight_cell, layer.bias)
    )
    size = w_h.shape[1]
    parts = [slice(k * size, (k + 1) * size) for k in range(4)]

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    def pre(gate, x_t, h):
        return w_x[parts[gate]] @ x_t + w_h[parts[gate]] @ h + bias[parts[gate]]

    out = np.zeros((*x.shape[:2], size))
    for n, clip in enumerate(x):
        h, c = np.zeros(size), np.zeros(size)
        for t, x_t in enumerate(clip):
            i = sigmoid(pre(0, x_t, h) + peep[0] * c)
            f = sigmoid(pre(1, x_t, h) + peep[1] * c)
            c = f * c + i * np.tanh(pre(2, x_t, h))
            o = sigmoid(pre(3, x_t, h) + peep[2] * c)
            h = o * np.tanh(c)
            out[n, t] = h
    return out


def test_the_peephole_cell_is_the_papers():
    torch.manual_seed(0)
    layer = PeepholeLSTM(5, 7)
    x = torch.randn(3, 6, 5)
    np.testing.assert_allclose(
        layer(x)[0].detach().numpy(), reference_peephole(layer, x.double().numpy()), atol=1e-6
    )


def test_without_peepholes_the_cell_is_pytorchs():
    torch.manual_seed(0)
    layer, known = PeepholeLSTM(5, 7), torch.nn.LSTM(5, 7, batch_first=True)
    with torch.no_grad():
        layer.weight_cell.zero_()
        known.weight_ih_l0.copy_(layer.weight_input)
        known.weight_hh_l0.copy_(layer.weight_hidden)
        known.bias_ih_l0.copy_(layer.bias)
        known.bias_hh_l0.zero_()
    x = torch.randn(2, 9, 5)
    torch.testing.assert_close(layer(x)[0], known(x)[0])


def model_of(width=4, n_classes=3, **options):
    chosen = SequenceSettings(**{"hidden": (6, 5), **options})
    return build_sequence_model(chosen, feature_dim=width, n_classes=n_classes)


@pytest.mark.parametrize("name", ["lstm", "peephole"])
def test_padding_changes_nothing(name):
    torch.manual_seed(0)
    model = model_of(model=name).eval()
    short = torch.randn(3, 4)
    padded = torch.cat([short, torch.full((5, 4), 1e3)])
    lengths = torch.tensor([3, 8])
    steps, clips, embeddings = model(torch.stack([padded, torch.randn(8, 4)]), lengths)
    alone = model(short[None], torch.tensor([3]))
    torch.testing.assert_close(steps[0, :3], alone[0][0])
    torch.testing.assert_close(clips[0], alone[1][0])
    torch.testing.assert_close(embeddings[0], alone[2][0])
    assert torch.equal(clips[0], steps[0, 2])
    assert torch.equal(clips[1], steps[1, 7])
    torch.testing.assert_close(model.classifier(embeddings), clips)
    assert embeddings.shape == (2, 5)


class MeanPooling(SequenceModel):
    """A classifier of the mean of the valid steps; it has no logits of steps."""

    def __init__(self, feature_dim: int, n_classes: int) -> None:
        super().__init__(feature_dim)
        self.classifier = torch.nn.Linear(feature_dim, n_classes)

    def forward(self, features, lengths):
        steps = torch.arange(features.shape[1], device=features.device)
        valid = (steps < lengths[:, None])[..., None]
        x = torch.where(valid, self.standardize(features), 0).sum(1) / lengths[:, None]
        return None, self.classifier(x), x


def mean_pooling(settings: SequenceSettings, feature_dim: int, n_classes: int) -> MeanPooling:
    return MeanPooling(feature_dim, n_classes)


def test_a_users_sequence_model_is_fitted_and_saved_like_ours(tmp_path):
    examples = write_sequences(tmp_path)
    chosen = replace(settings(max_steps=3), model=f"{__name__}:mean_pooling")
    task = SequenceTask("clip", chosen, examples, 2, False, seed=0)
    batch = task.batch(0)
    _, logits, _ = task.model(batch["features"], batch["lengths"])
    expected = torch.nn.functional.cross_entropy(logits, batch["targets"])
    torch.testing.assert_close(task.loss(task.model, batch), expected)
    assert {"score", "loss"} <= set(task.evaluate(task.model))
    again, _ = network_from_bytes(network_to_bytes(task.model))
    scores, embedding = apply_sequence(again, batch["features"][0, :5])
    assert torch.equal(scores, apply_sequence(task.model.eval(), batch["features"][0, :5])[0])
    assert embedding.shape == (6,)


def test_a_sequence_model_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="did you mean 'peephole'"):
        SequenceSettings(model="peepholes")
    with pytest.raises(UserError, match="is 'none'"):
        model_of(model="none")
    with pytest.raises(UserError, match="SequenceModel"):
        model_of(model=f"{__name__}:settings")


def write_sequences(folder, *, n=30, seed=0, width=6):
    """Two events in one order or the other: each step alone tells nothing of the class."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        label, length = i % 2, int(rng.integers(5, 10))
        x = rng.normal(50, 0.1, (length, width))
        early, late = sorted(rng.choice(length - 1, 2, replace=False))
        x[early, label] += 1
        x[late, 1 - label] += 1
        x = torch.from_numpy(x.astype(np.float32))
        place = folder / f"{i}.safetensors"
        times = torch.arange(length, dtype=torch.float32)
        place.write_bytes(Embedding(x, torch.zeros(2), times).to_bytes())
        split = "val" if i % 3 == 2 else "train"
        examples.append(Example(f"{i:02d}", str(place), (label,), split))
    return examples


def settings(**options):
    fit = OptimizerSettings(
        name="adam", lr=1e-2, batch_size=10, weight_decay=0.0, clip_norm=5.0, loader_threads=1
    )
    return SequenceSettings(hidden=(24, 16), fit=replace(fit, **options))


@pytest.mark.slow
def test_an_lstm_learns_the_order_of_events(tmp_path):
    chosen = settings(max_steps=150, evaluate_every=50)
    examples = write_sequences(tmp_path, n=150)
    task = SequenceTask("spatial", chosen, examples, 2, False, seed=0)
    result = fit(task, chosen.fit, seed=0)
    assert result.history[-1]["score"] >= 0.9
    features = Embedding.from_bytes((tmp_path / "3.safetensors").read_bytes()).features
    scores = score_sequence(task.model.eval(), features)
    assert scores.argmax() == 1
    again, _ = network_from_bytes(network_to_bytes(task.model))
    assert torch.equal(score_sequence(again, features), scores)


def test_the_loss_is_the_mean_over_valid_steps(tmp_path):
    chosen = settings(max_steps=1)
    task = SequenceTask("motion", chosen, write_sequences(tmp_path), 2, False, seed=0)
    batch = task.batch(0, 0, 1)
    expected = []
    columns = (batch[name] for name in ("features", "lengths", "targets"))
    for features, n, target in zip(*columns, strict=True):
        logits = task.model(features[None, :n], n[None])[0][0]
        expected.append(torch.nn.functional.cross_entropy(logits, target.expand(n)))
    torch.testing.assert_close(task.loss(task.model, batch), torch.stack(expected).mean())


def test_features_are_standardized_by_the_training_clips(tmp_path):
    examples = write_sequences(tmp_path)
    task = SequenceTask("motion", settings(max_steps=1), examples, 2, False, seed=0)
    train = torch.cat([task._features[e.artifact] for e in examples if e.split == "train"])
    torch.testing.assert_close(task.model.mean, train.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        1 / task.model.scale, train.std(0, unbiased=False), rtol=1e-3, atol=0
    )


def test_a_feature_that_never_changes_is_left_alone():
    mean, spread = feature_moments([torch.ones(3, 2), torch.ones(4, 2)])
    assert torch.equal(mean, torch.ones(2))
    assert torch.equal(spread, torch.ones(2))


@pytest.mark.parametrize("option", ["input_noise", "input_dropout"])
def test_noise_and_dropout_of_inputs_are_off_in_eval_mode_and_repeat_by_seed(option):
    torch.manual_seed(0)
    model = model_of(6, hidden=(8,), **{option: 0.5})
    plain = model_of(6, hidden=(8,))
    plain.load_state_dict(model.state_dict())
    x, lengths = torch.randn(4, 7, 6), torch.full((4,), 7)

    def trained(seed):
        torch.manual_seed(seed)
        return model.train()(x, lengths)[0]

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))
    assert not torch.equal(trained(1), plain.train()(x, lengths)[0])
    assert torch.equal(model.eval()(x, lengths)[0], plain.eval()(x, lengths)[0])
    again, _ = network_from_bytes(network_to_bytes(model))
    assert again.description["settings"][option] == 0.5


def test_input_noise_has_its_deviation_half_of_the_variance_common_to_a_clips_steps():
    torch.manual_seed(0)
    model = model_of(50, hidden=(8,), input_noise=0.4)
    noise = model._noise(torch.zeros(400, 20, 50))
    assert noise.std() == pytest.approx(0.4, rel=0.02)
    common = noise.mean(1).var()  # over clips; what differs between steps leaves 1/20 of its own
    assert common == pytest.approx(0.4**2 / 2 * (1 + 1 / 20), rel=0.05)


@pytest.mark.parametrize("option", ["input_noise", "input_dropout"])
def test_a_fit_with_disturbed_inputs_repeats_by_seed(tmp_path, option):
    examples = write_sequences(tmp_path)
    chosen = replace(settings(max_steps=4, evaluate_every=2), **{option: 0.3})

    def weights(seed):
        task = SequenceTask("spatial", chosen, examples, 2, False, seed=0)
        return fit(task, chosen.fit, seed=seed).best_state["classifier.weight"]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))

"""The fusion network: its equations, Algorithm 1, absent streams, folds in lockstep, its file."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save

from actors.errors import UserError
from trainers.fusion.network import FusionNetwork
from trainers.fusion.proximal import penalty, proximal_step
from trainers.fusion.training import fit_folds, fit_fusion, rank
from trainers.settings import FusionSettings
from trainers.table import Table
from trainers.targets import Targets

WIDTHS = {"spatial": 24, "motion": 16, "audio": 12}
SMALL = FusionSettings(hidden=20, batch_size=32, max_epochs=40)


pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(n=120, classes=5, seed=0, widths=WIDTHS, noise=0.5):
    """A table of clips whose class shows in every stream; a third of them has no sound."""
    centers = np.random.default_rng(99)
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    features, present = {}, {}
    for name, width in widths.items():
        center = 3 * centers.normal(size=(classes, width)) + 10
        values = center[labels] + noise * rng.normal(size=(n, width)) * 4
        features[name] = values.astype(np.float32)
        present[name] = np.ones(n, bool)
    if "audio" in present:
        present["audio"] = rng.random(n) > 1 / 3
        features["audio"][~present["audio"]] = np.nan
    return Table.of(features, present, Targets.from_classes(labels, classes))


def of(network, table):
    """The network's scores."""
    return network.scores(table.features, table.present)


def share_right(network, table):
    return (of(network, table).argmax(1) == table.targets.classes()).mean()


def tensors(table):
    """Features, presence and targets as tensors."""
    return (
        {name: torch.from_numpy(values) for name, values in table.features.items()},
        {name: torch.from_numpy(there) for name, there in table.present.items()},
        torch.from_numpy(table.targets.dense()),
    )


def test_learns_and_gives_probabilities():
    training, test = drawn(), drawn(seed=1)
    network = fit_fusion(training, SMALL, seed=0)
    scores = of(network, test)
    assert scores.shape == (120, 5) and scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    assert share_right(network, test) > 0.9


def test_forward_is_the_equations():
    features, present, _ = tensors(drawn(n=7))
    network = FusionNetwork(WIDTHS, 5, SMALL, seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    network.standardize_by(features, [{n: present[n].nonzero()[:, 0] for n in WIDTHS}])
    hidden = []
    for name, width in WIDTHS.items():
        values, there = features[name].double().numpy(), present[name].numpy()
        mean, spread = values[there].mean(0), values[there].std(0)
        inputs = np.where(
            there[:, None],
            (values - mean) / spread / width**0.5,
            network.absent[name][0].detach().numpy(),
        )
        weight = network.transform[name][0].detach().double().numpy()
        hidden.append(np.tanh(inputs @ weight.T + network.transform_bias[name][0].detach().numpy()))
    joined = np.concatenate(hidden, 1)
    fused = np.tanh(
        joined @ network.fusion[0].detach().numpy().T + network.fusion_bias[0].detach().numpy()
    )
    logits = fused @ network.classes[0].detach().numpy().T
    logits = logits + network.classes_bias[0].detach().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores, embeddings = network.scores_and_embeddings(features, present)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(embeddings, fused, atol=1e-5)


def test_one_step_is_algorithm_1():
    """One batch of all clips: gradient on the smooth part, then the operator on W^E only."""
    table = drawn(n=30)
    features, present, targets = tensors(table)
    settings = FusionSettings(
        hidden=6, batch_size=30, max_epochs=1, lambda1=1e-2, lambda2=0.05, lambda3=0.05
    )
    start = FusionNetwork(WIDTHS, 5, settings, seed=4)
    start.standardize_by(features, [{n: present[n].nonzero()[:, 0] for n in WIDTHS}])
    output = start(
        {n: v[None] for n, v in features.items()}, {n: v[None] for n, v in present.items()}
    )
    smooth = ((output[0] - targets) ** 2).sum(1).mean()
    phi = sum((weight**2).sum() for weight in start.weights()) / 2
    (smooth + settings.lambda1 * phi).backward()
    fitted = fit_fusion(table, settings, seed=4)
    after = dict(fitted.named_parameters())
    for name, parameter in start.named_parameters():
        expected = parameter.detach() - 0.7 * parameter.grad
        if name == "fusion":
            expected = proximal_step(expected, step=0.7, lambda2=0.05, lambda3=0.05)
        torch.testing.assert_close(after[name].detach(), expected, atol=1e-6, rtol=1e-5)
    assert 0 < fitted.sparsity()["zero_entries"] < 1


def test_regularizers_give_exact_zeros_and_lower_their_penalty():
    training = drawn()
    plain = fit_fusion(training, SMALL, seed=0)
    assert plain.sparsity() == {"zero_rows": 0.0, "zero_entries": 0.0}
    rows = fit_fusion(training, dataclasses.replace(SMALL, lambda2=0.1), seed=0)
    entries = fit_fusion(training, dataclasses.replace(SMALL, lambda3=1e-3), seed=0)
    assert rows.sparsity()["zero_rows"] > 0.1
    assert rows.sparsity()["zero_rows"] == pytest.approx(rows.sparsity()["zero_entries"])
    assert entries.sparsity()["zero_entries"] > 0.3
    for network in (rows, entries):
        assert share_right(network, drawn(seed=1)) > 0.85
        assert penalty(network.fusion, lambda2=1.0, lambda3=1.0) < penalty(
            plain.fusion, lambda2=1.0, lambda3=1.0
        )


def test_every_row_zero_leaves_class_shares():
    network = fit_fusion(drawn(), dataclasses.replace(SMALL, lambda2=100.0), seed=0)
    assert network.sparsity() == {"zero_rows": 1.0, "zero_entries": 1.0}
    scores = of(network, drawn(seed=1))
    assert np.ptp(scores, axis=0).max() == 0


@pytest.mark.parametrize("absent", ["learned", "zero"])
def test_absent_streams(absent):
    settings = dataclasses.replace(SMALL, absent=absent)
    table = drawn()
    network = fit_fusion(table, settings, seed=0)
    learned = network.absent["audio"].abs().sum().item()
    assert (learned > 0) == (absent == "learned")
    # Values of an absent stream have no influence.
    other = {**table.features, "audio": table.features["audio"].copy()}
    other["audio"][~table.present["audio"]] = 1e6
    np.testing.assert_array_equal(of(network, table), network.scores(other, table.present))
    silent = table.with_feature("audio", table.features["audio"], np.zeros(120, bool))
    assert share_right(network, silent) > 0.9


def test_stream_dropout_trains_the_absent_vector_where_no_clip_lacks_the_stream():
    table = drawn(widths={"spatial": 24, "motion": 16})
    gone = table.with_feature("spatial", table.features["spatial"], np.zeros(120, bool))
    for chance, moved in ((0.0, False), (0.3, True)):
        settings = dataclasses.replace(SMALL, stream_dropout=chance)
        network = fit_fusion(table, settings, seed=0)
        assert (network.absent["motion"].abs().sum() > 0) == moved
        assert np.isfinite(of(network, gone)).all()


def test_a_feature_that_never_varies_and_one_far_from_zero_do_no_harm():
    table = drawn()
    table.features["spatial"][:, 0] = 7.0
    table.features["motion"][:, 0] += 1e4
    assert share_right(fit_fusion(table, SMALL, seed=0), table) > 0.9


def test_several_labels():
    table = drawn(n=200)
    one = table.targets.dense()
    both = np.maximum(one, np.roll(one, 1, axis=1) * (np.arange(200) % 2)[:, None])
    both[:5] = 0
    table = dataclasses.replace(table, targets=Targets.from_dense(both, multi_label=True))
    history = []
    network = fit_fusion(
        table,
        dataclasses.replace(SMALL, max_epochs=80),
        seed=0,
        validation=table,
        on_epoch=lambda epoch, metrics: history.append(metrics["score"]),
    )
    scores = of(network, table)
    assert scores.min() >= 0 and scores.max() <= 1 and scores.sum(1).max() > 1.2
    assert max(history) > 0.97 > history[0]


def test_same_seed_same_network_other_seed_another():
    training = drawn()
    first, again, other = (fit_fusion(training, SMALL, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.fusion, again.fusion)
    assert not torch.equal(first.fusion, other.fusion)


def test_the_best_epoch_is_kept_and_training_stops():
    history = []
    validation = drawn(n=60, seed=1, noise=3.0)
    settings = dataclasses.replace(SMALL, max_epochs=300, patience=5)
    network = fit_fusion(
        drawn(noise=1.0),
        settings,
        seed=0,
        validation=validation,
        on_epoch=lambda epoch, metrics: history.append((epoch, metrics)),
    )
    assert [epoch for epoch, _ in history] == list(range(1, len(history) + 1))
    assert len(history) < 300
    best = max(history, key=lambda one: (one[1]["score"], -one[1]["held_out_loss"]))
    assert len(history) - best[0] == 5
    assert share_right(network, validation) == pytest.approx(best[1]["score"])
    scores = of(network, validation)
    loss = ((scores - validation.targets.dense()) ** 2).sum(1).mean()
    assert loss == pytest.approx(best[1]["held_out_loss"], rel=1e-4)


def test_keep_loss_keeps_the_epoch_of_the_least_squared_error():
    training, validation = drawn(noise=3.0), drawn(n=60, seed=1, noise=3.0)
    best = {}
    for keep in ("score", "loss"):
        settings = dataclasses.replace(SMALL, max_epochs=30, keep=keep)
        history = []
        network = fit_fusion(
            training,
            settings,
            seed=0,
            validation=validation,
            on_epoch=lambda epoch, metrics, history=history: history.append(metrics),
        )
        best[keep] = max(history, key=lambda one, settings=settings: rank(one, settings))
        scores = of(network, validation)
        loss = ((scores - validation.targets.dense()) ** 2).sum(1).mean()
        assert loss == pytest.approx(best[keep]["held_out_loss"], rel=1e-4)
        assert share_right(network, validation) == pytest.approx(best[keep]["score"])
    least = min(one["held_out_loss"] for one in history)
    assert best["loss"]["held_out_loss"] == least < best["score"]["held_out_loss"]
    assert best["loss"]["score"] < best["score"]["score"]


def test_input_noise_changes_training_and_repeats_by_seed_but_scores_are_free_of_it():
    table = drawn()
    noisy = dataclasses.replace(SMALL, max_epochs=5, input_noise=0.5)
    quiet = dataclasses.replace(noisy, input_noise=0.0)
    plain = fit_fusion(table, quiet, seed=0)
    first, again, other = (fit_fusion(table, noisy, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.fusion, again.fusion)
    assert not torch.equal(first.fusion, plain.fusion)
    assert not torch.equal(first.fusion, other.fusion)
    scores = of(first, table)
    np.testing.assert_array_equal(scores, of(first, table))
    # The weights alone decide the scores: the same ones in a network without noise score alike.
    state, meta = first.to_state()
    same = FusionNetwork.from_state(state, {**meta, "settings": dataclasses.asdict(quiet)})
    np.testing.assert_array_equal(scores, of(same, table))


def test_input_noise_is_in_units_of_each_features_spread():
    """Features of another scale are disturbed alike: standardized, the network is the same."""
    table = drawn()
    settings = dataclasses.replace(SMALL, max_epochs=3, input_noise=0.5)
    larger = {name: v * np.float32(64) for name, v in table.features.items()}  # exact
    first = fit_fusion(table, settings, seed=0)
    second = fit_fusion(dataclasses.replace(table, features=larger), settings, seed=0)
    torch.testing.assert_close(first.fusion, second.fusion, atol=1e-5, rtol=1e-4)


def test_a_stream_that_only_one_fold_holds_is_absent_where_it_is_held_out():
    table, rows = drawn(), np.arange(120)
    alone = rows < 40  # one group's clips, all held out by fold 0
    values = 50 * np.random.default_rng(0).normal(size=(120, 12)).astype(np.float32)
    table = table.with_feature("audio", np.where(alone[:, None], values, np.float32(0)), alone)
    training, held = [rows[~alone], rows[alone]], [rows[alone], rows[~alone]]
    fit = fit_folds(table, training, SMALL, seed=0, held_out=(table, held))
    assert (fit.network.get_buffer("mean_audio")[0] == 0).all()
    assert (fit.network.get_buffer("scale_audio")[0] == 1).all()
    for name, value in fit.network.state_dict().items():
        assert torch.isfinite(value).all(), name
    part = table.part(held[0])
    silent = part.with_feature("audio", part.features["audio"], np.zeros(40, bool))
    scores = of(fit.network.member(0), silent)
    np.testing.assert_allclose(fit.held_out_scores[:40], scores, atol=1e-5)
    assert (scores.argmax(1) == part.targets.classes()).mean() > 0.9
    with pytest.raises(ValueError, match="no training clip has the stream 'audio'"):
        fit_folds(table, training[:1], SMALL, seed=0)
    with pytest.raises(ValueError, match="no training clip has the stream 'audio'"):
        fit_folds(table, [rows[40:80], rows[80:]], SMALL, seed=0)


def test_folds_in_lockstep_equal_each_by_itself():
    table = drawn()
    settings = dataclasses.replace(
        SMALL, max_epochs=4, lambda2=0.01, lambda3=1e-4, stream_dropout=0.2
    )
    rows = np.arange(120)
    training = [rows[rows % 3 != fold] for fold in range(3)]
    held = [rows[rows % 3 == fold] for fold in range(3)]
    together = fit_folds(table, training, settings, seed=2, held_out=(table, held))
    part = together.held_out_scores.reshape(3, 40, -1)
    assert together.best["epoch"] == 4  # the last: the state that fits alone end in
    for fold in range(3):
        alone = fit_folds(table, [training[fold]], settings, seed=2).network
        scores = of(alone, table.part(held[fold]))
        np.testing.assert_allclose(part[fold], scores, atol=1e-4)
        torch.testing.assert_close(
            together.network.member(fold).fusion, alone.fusion, atol=1e-4, rtol=1e-3
        )


def test_held_out_clips_do_not_train():
    table = drawn()
    training = [np.arange(0, 80), np.arange(40, 120)]
    first = fit_folds(table, training, SMALL, seed=0).network
    spoiled = table.features["spatial"].copy()
    spoiled[80:] = 1e3
    second = fit_folds(table.with_feature("spatial", spoiled), training, SMALL, seed=0).network
    assert torch.equal(first.fusion[0], second.fusion[0])
    assert not torch.equal(first.fusion[1], second.fusion[1])


def test_saved_and_loaded():
    training = drawn()
    network = fit_fusion(training, dataclasses.replace(SMALL, lambda3=1e-3), seed=0)
    loaded = FusionNetwork.from_bytes(network.to_bytes())
    assert loaded.settings == network.settings and loaded.streams == tuple(WIDTHS)
    np.testing.assert_array_equal(of(loaded, training), of(network, training))
    with pytest.raises(ValueError, match="not a fusion network"):
        FusionNetwork.from_bytes(save({"x": torch.zeros(1)}))


def test_thousands_of_inputs_stay_stable_at_the_published_rate():
    widths = {"spatial": 4096, "motion": 2048}
    settings = FusionSettings(max_epochs=8, batch_size=50)
    network = fit_fusion(drawn(n=100, classes=4, widths=widths), settings, seed=0)
    assert share_right(network, drawn(n=60, classes=4, widths=widths, seed=1)) > 0.9


def without(table, name, rows=slice(None)):
    """The table with some clips lacking a stream."""
    there = table.present[name].copy()
    there[rows] = False
    return table.with_feature(name, table.features[name], there)


def relabeled(table, targets):
    return dataclasses.replace(table, targets=targets)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda t: without(without(without(t, "audio"), "spatial", [7]), "motion", [7]),
            "rows 7 have none of",
        ),
        (lambda t: without(t, "audio"), "no training clip has the stream 'audio'"),
        (lambda t: relabeled(t, Targets.unlabeled(120, 5)), "rows 0, 1, .* have no label"),
    ],
)
def test_refuses_clips(spoil, message):
    with pytest.raises(ValueError, match=message):
        fit_fusion(spoil(drawn()), SMALL, seed=0)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (drawn(widths={"spatial": 24}), "training clips have features"),
        (drawn(classes=4), "5 classes, held-out clips 4"),
        (relabeled(drawn(), Targets.unlabeled(120, 5)), "no held-out clip has a label"),
    ],
)
def test_refuses_validation_clips(validation, message):
    with pytest.raises(ValueError, match=message):
        fit_fusion(drawn(), SMALL, seed=0, validation=validation)


@pytest.mark.parametrize(
    ("features", "present", "message"),
    [
        ({"motion": None}, {}, r"no features of \['motion'\]"),
        ({"audio": np.zeros((3, 12))}, {}, r"must be \(120, 12\)"),
        ({"audio": np.full((120, 12), np.inf)}, {}, "'audio' hold NaN or infinity in rows"),
        ({}, {"audio": np.zeros(120)}, "'audio' must be .* bool"),
        ({}, dict.fromkeys(WIDTHS, np.zeros(120, bool)), r"rows 0, .* have none of"),
    ],
)
def test_scores_refuses(features, present, message):
    table = drawn()
    network = FusionNetwork(WIDTHS, 5, SMALL)
    given = {n: v for n, v in {**table.features, **features}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        network.scores(given, {**table.present, **present})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "fusion.hidden must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "fusion.learning_rate"),
        ({"lambda3": -1.0}, "fusion.lambda3"),
        ({"stream_dropout": 1.0}, "fusion.stream_dropout"),
        ({"activation": "swish"}, "fusion.activation"),
        ({"input_noise": -0.1}, "fusion.input_noise must be at least 0, got -0.1"),
        ({"keep": "last"}, "fusion.keep must be one of .*'last'"),
        ({"model": "regularised"}, "fusion.model must be .*'regularised'; did you mean"),
    ],
)
def test_refuses_settings(changes, message):
    with pytest.raises(UserError, match=message):
        FusionSettings(**changes)


def test_divergence_is_named():
    with pytest.raises(UserError, match=r"lower fusion.learning_rate"):
        fit_fusion(drawn(), dataclasses.replace(SMALL, learning_rate=1e38), seed=0)


def test_published_parameters_are_the_defaults():
    settings = FusionSettings()
    assert (settings.hidden, settings.learning_rate, settings.lambda1) == (200, 0.7, 3e-5)

from dataclasses import replace

import pytest
import torch
from clips import array_examples, open_array_clip

from actors.errors import UserError
from trainers.encoders.task import EncoderTask
from trainers.fit.examples import Example, draw_examples
from trainers.fit.loop import fit
from trainers.fit.objective import Objective
from trainers.settings import OptimizerSettings
from trainers.streams.settings import StreamSettings

SETTINGS = StreamSettings(
    encoder="own:cnn_m_small",
    weights="none",
    feature_dim=32,
    dropout=0.2,
    crop=16,
    flip=False,
    window_seconds=2.0,
    fit=OptimizerSettings(
        name="adam", lr=3e-3, batch_size=12, max_steps=40, evaluate_every=20, loader_threads=1
    ),
)


def make(track="frames", settings=SETTINGS, examples=None, **options):
    arguments = {"n_classes": 3, "multi_label": False, "seed": 0, **options}
    examples = array_examples() if examples is None else examples
    settings = replace(settings, track=track)
    return EncoderTask(track, settings, examples, opener=open_array_clip, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("track", ["frames", "flow", "sound"])
@pytest.mark.parametrize("name", ["vgg_small", "cnn_m_small"])
def test_the_small_encoders_learn_what_each_track_shows(track, name):
    chosen = replace(SETTINGS, encoder=f"own:{name}")
    task = make(track, chosen)
    result = fit(task, chosen.fit, seed=0)
    assert result.history[-1]["score"] == 1.0
    assert result.history[-1]["loss"] < 0.3


def test_a_batch_depends_on_seed_and_step_alone():
    chosen = replace(SETTINGS, flip=True)
    first, second = make(settings=chosen), make(settings=chosen)
    first.batch(3)
    for step in (0, 7):
        a, b = first.batch(step), second.batch(step)
        assert torch.equal(a["inputs"], b["inputs"])
        assert torch.equal(a["targets"], b["targets"])
    assert not torch.equal(first.batch(1)["inputs"], first.batch(2)["inputs"])
    assert not torch.equal(
        first.batch(1)["inputs"], make(settings=chosen, seed=1).batch(1)["inputs"]
    )


def test_workers_share_a_batch():
    task = make(settings=replace(SETTINGS, samples_per_clip=2))
    whole = task.batch(4)["inputs"].unflatten(0, (-1, 2))
    shares = [task.batch(4, rank, 4)["inputs"].unflatten(0, (-1, 2)) for rank in range(4)]
    assert [len(share) for share in shares] == [2, 2, 1, 1]
    for rank, share in enumerate(shares):
        assert torch.equal(share, whole[rank::4])


def test_colors_are_jittered_within_bounds_and_only_in_training():
    jittered = make(settings=replace(SETTINGS, color_jitter=0.3))
    plain, batch = make().batch(2), jittered.batch(2)
    assert torch.equal(batch["inputs"], plain["inputs"])
    gains = batch["augmentation"].flatten()
    assert gains.shape == (36,)
    assert 0.7 <= gains.min() < 0.8 < 1.2 < gains.max() <= 1.3
    assert torch.equal(gains, jittered.batch(2)["augmentation"].flatten())
    jittered.model.eval()
    seen = []
    jittered.model.register_forward_hook(lambda model, inputs, _: seen.append(inputs[0]))
    jittered.loss(jittered.model, {**batch, "augmentation": torch.full((12, 3), 0.5)})
    halved = {**batch, "inputs": batch["inputs"] * 0.5}
    halved.pop("augmentation")
    jittered.loss(jittered.model, halved)
    torch.testing.assert_close(seen[0], seen[1])
    assert "augmentation" not in make("flow", replace(SETTINGS, color_jitter=0.3)).batch(0)


def test_every_clip_comes_once_an_epoch():
    drawn = [i for step in range(10) for i in draw_examples(15, 6, step=step, seed=0)]
    for epoch in range(4):
        assert sorted(drawn[15 * epoch : 15 * epoch + 15]) == list(range(15))
    assert drawn[:15] != drawn[15:30]


def test_scores_of_a_clip_are_the_mean_of_its_samples():
    task = make(settings=replace(SETTINGS, validation_samples=4))
    task.model.eval()
    inputs = [task._test_samples(e) for e in task.validation]
    assert all(len(samples) == 4 for samples, _ in inputs)
    with torch.no_grad():
        found = task._scores(task.model, inputs, torch.device("cpu"))
        alone = task._scores(task.model, inputs[:1], torch.device("cpu"))
    torch.testing.assert_close(found[0], alone[0])
    assert float(found[0].sum()) == pytest.approx(1, abs=1e-5)
    measures = task.evaluate(task.model)
    assert {"score", "loss", "accuracy"} <= set(measures)
    assert task.model.training


def test_several_labels_make_independent_scores():
    examples = [
        replace(e, targets=() if i % 3 == 2 else (0, i % 3)) for i, e in enumerate(array_examples())
    ]
    task = make("frames", examples=examples, n_classes=2, multi_label=True)
    assert task.batch(0)["targets"].shape == (12, 2)
    result = fit(task, task.settings.fit, seed=0)
    assert result.history[-1]["score"] == result.history[-1]["map"] == pytest.approx(1.0)


def test_class_weights_are_inverse_frequencies():
    examples = [Example(str(i), str(i), (int(i == 0),), "train") for i in range(4)]
    objective = Objective(examples, 2, multi_label=False, class_weights=True)
    logits = torch.zeros(2, 2)
    losses = objective.losses(logits, torch.tensor([0, 1])) / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(losses, torch.tensor([4 / 6, 4 / 2]))
    weighted = [float(objective.losses(torch.zeros(1, 2), objective.tensor([e]))) for e in examples]
    assert sum(weighted) / 4 == pytest.approx(0.6931, abs=1e-4)
    several = Objective(examples, 2, multi_label=True, class_weights=True)
    assert several._weights.tolist() == pytest.approx([1 / 3, 3])


def test_mistakes_are_found_before_fitting():
    with pytest.raises(UserError, match="no training clip has what the flow stream needs"):
        make("flow", examples=[Example("a", "0", (0,), "val")])
    with pytest.raises(UserError, match="crop is null"):
        make("frames", replace(SETTINGS, crop=None))
    tiny = replace(SETTINGS, crop=8, encoder="torchvision:alexnet")
    with pytest.raises(UserError, match="torchvision:alexnet takes no samples of 8x8"):
        make("frames", tiny)
    with pytest.raises(UserError, match="there is nothing to fit"):
        make("frames", replace(SETTINGS, frozen=True))
    with pytest.raises(UserError, match="samples_per_clip 5 must divide"):
        replace(SETTINGS, samples_per_clip=5)

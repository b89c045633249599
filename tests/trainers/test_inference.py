from dataclasses import replace

import pytest
import torch
from clips import ArrayClip
from torch.nn.functional import cosine_similarity

from trainers.embedding import embed_clip
from trainers.encoders import inference
from trainers.encoders.factory import build_encoder
from trainers.settings import EmbeddingSettings, EncoderSettings
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings


def encoder_of(name):
    settings = EncoderSettings(name, weights="none")
    return build_encoder(settings, in_channels=3, n_classes=5).eval()


def compute(encoder, x, precision):
    ready = inference.prepare(encoder, "cpu", precision)
    with torch.no_grad(), inference.compute("cpu", precision):
        features = ready.features(inference.lay_out(x, precision))
        return features.float(), ready.tail(features).float()


@pytest.mark.parametrize(
    "name", ["own:vgg_small", "own:cnn_m", "torchvision:resnet18", "timm:vit_tiny_patch16_224"]
)
def test_features_in_bf16_point_where_those_in_fp32_point(name):
    encoder, x = encoder_of(name), torch.randn(2, 3, 224, 224)
    plain = compute(encoder, x, "fp32")
    half = compute(encoder, x, "bf16")
    for exact, near in zip(plain, half, strict=True):
        assert not torch.equal(exact, near)
        assert cosine_similarity(exact, near).min() >= 0.9999


def test_channels_last_changes_nothing_but_rounding(monkeypatch):
    monkeypatch.setattr(inference, "has_fast_bf16", lambda: False)
    encoder, x = encoder_of("torchvision:resnet18"), torch.randn(2, 3, 64, 64)
    plain = compute(encoder, x, "fp32")
    other = compute(encoder, x, "auto")
    assert encoder.body.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert inference.lay_out(x, "auto").is_contiguous(memory_format=torch.channels_last)
    for exact, near in zip(plain, other, strict=True):
        torch.testing.assert_close(exact, near, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fast", [True, False])
def test_auto_takes_bf16_where_the_cpu_has_it(monkeypatch, fast):
    monkeypatch.setattr(inference, "has_fast_bf16", lambda: fast)
    assert inference.uses_bf16("auto") is fast
    assert inference.uses_bf16("bf16")
    assert not inference.uses_bf16("fp32")


def test_a_prepared_encoder_leaves_the_weights_it_was_made_from():
    encoder = encoder_of("own:vgg_small")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    ready = inference.prepare(encoder, "cpu", "bf16")
    assert ready is not encoder
    assert ready.body[0].weight.dtype == torch.bfloat16
    assert ready.body[1].weight.dtype == torch.float32
    after = encoder.state_dict()
    assert all(after[name].dtype == value.dtype for name, value in before.items())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert inference.prepare(encoder, "cpu") is encoder
    assert encoder.body[0].weight.is_contiguous()


def test_clips_are_embedded_in_the_precision_of_the_settings():
    settings = StreamSettings(encoder="own:vgg_small", weights="none", crop=24)
    stream, encoder = make_stream("any", settings), encoder_of("own:vgg_small")
    chosen = EmbeddingSettings(max_steps=5, test_samples=5)
    exact = embed_clip(encoder, stream, ArrayClip(1), settings=chosen)
    half = replace(chosen, precision="bf16")
    ready = inference.prepare(encoder, "cpu", "bf16")
    near = embed_clip(ready, stream, ArrayClip(1), settings=half)
    assert near.features.dtype == near.scores.dtype == torch.float32
    assert not torch.equal(exact.features, near.features)
    assert cosine_similarity(exact.features, near.features).min() >= 0.9999
    torch.testing.assert_close(exact.scores, near.scores, atol=0.01, rtol=0.05)

from dataclasses import replace

import pytest
import torch
from clips import ArrayClip, array_examples, open_array_clip

import trainers.embedding
from actors.errors import UserError
from actors.storage import Storage
from trainers.embedding import (
    ClipEmbedder,
    Embedding,
    embed_clip,
    embedding_positions,
    read_embedding,
)
from trainers.encoders.factory import build_encoder
from trainers.network_files import save_network
from trainers.sequence.factory import build_sequence_model
from trainers.settings import EmbeddingSettings, SequenceSettings
from trainers.streams.kinds import make_stream
from trainers.streams.settings import StreamSettings

SETTINGS = StreamSettings(
    encoder="own:vgg_small", weights="none", feature_dim=12, crop=16, window_seconds=2.0
)
TRACKS = ("frames", "flow", "sound")


def stream_of(track, **options):
    return make_stream(f"my {track}", replace(SETTINGS, track=track, **options))


def encoder_of(stream, n_classes=3):
    return build_encoder(
        stream.settings.encoder_settings, in_channels=stream.channels, n_classes=n_classes
    ).eval()


def embed(track, clip, chosen, **options):
    stream = stream_of(track)
    return embed_clip(encoder_of(stream), stream, clip, settings=chosen, **options)


@pytest.mark.parametrize("track", TRACKS)
def test_features_and_scores_are_those_of_each_position(track):
    clip, stream = ArrayClip(1), stream_of(track)
    encoder = encoder_of(stream)
    chosen = EmbeddingSettings(max_steps=5, test_samples=3, batch_size=2)
    found = embed_clip(encoder, stream, clip, settings=chosen)
    n = {"frames": 8, "flow": 6, "sound": 41}[track]
    steps, tests = embedding_positions(n, chosen)
    assert set(tests) <= set(steps)
    with torch.no_grad():
        for positions, got in ((steps, found.features), (tests, None)):
            inputs = stream.normalize(stream.crop(stream.cut(clip, positions)))
            if got is not None:
                torch.testing.assert_close(got, encoder.features(inputs))
        torch.testing.assert_close(found.scores, encoder(inputs).softmax(1).mean(0))
    assert found.features.dtype == torch.float32
    assert float(found.scores.sum()) == pytest.approx(1, abs=1e-5)
    assert found.metadata == {"stream": f"my {track}", "positions": n}


def test_a_frozen_encoder_gives_features_alone(tmp_path):
    clip, stream = ArrayClip(1), stream_of("frames", frozen=True)
    chosen = EmbeddingSettings(max_steps=3, test_samples=8)
    found = embed_clip(encoder_of(stream), stream, clip, settings=chosen)
    assert found.features.shape == (3, 12)
    assert found.scores is None
    again = Embedding.from_bytes(found.to_bytes())
    assert again.scores is None
    assert torch.equal(again.features, found.features)


def test_nothing_is_seen_twice():
    seen, stream = [], stream_of("frames")
    encoder = encoder_of(stream)
    encoder.body.register_forward_hook(lambda m, x, y: seen.append(len(y)))
    chosen = EmbeddingSettings(max_steps=6, test_samples=25)
    embed_clip(encoder, stream, ArrayClip(0), settings=chosen)
    # 6 of the 8 frames are features, the 25 test samples want all 8: each goes through once.
    assert sum(seen) == 8


def test_positions_are_spread_and_short_clips_used_whole():
    chosen = EmbeddingSettings(max_steps=50, test_samples=25)
    steps, tests = embedding_positions(3, chosen)
    assert steps == [0, 1, 2]
    assert sorted(set(tests)) == [0, 1, 2]
    assert len(tests) == 25
    steps, tests = embedding_positions(1000, chosen)
    assert steps == list(range(10, 1000, 20))
    assert set(tests) <= set(steps)
    assert len(set(tests)) == 25
    steps, tests = embedding_positions(1000, replace(chosen, max_steps=10))
    assert len(steps) == 10
    assert len(set(tests)) == 25


def test_times_are_seconds_from_the_start():
    clip = ArrayClip(0)
    times = {t: embed(t, clip, EmbeddingSettings(max_steps=100)).times for t in TRACKS}
    # 10 frames per second, every second one kept; flow between all; 20 columns per second.
    torch.testing.assert_close(times["frames"], torch.arange(8) * 0.2)
    torch.testing.assert_close(times["flow"], torch.arange(6) * 0.1)
    torch.testing.assert_close(times["sound"], torch.arange(41) * 0.05)


def test_sigmoid_scores_of_several_labels():
    one = EmbeddingSettings(max_steps=1, test_samples=1)
    found = embed("frames", ArrayClip(1), one, multi_label=True)
    single = embed("frames", ArrayClip(1), one)
    logits = torch.logit(found.scores.double())
    torch.testing.assert_close(logits.softmax(0).float(), single.scores, atol=1e-5, rtol=1e-4)


def test_an_embedding_survives_its_file(tmp_path):
    given = Embedding(torch.randn(4, 2), torch.rand(3), torch.arange(4.0), {"stream": "audio"})
    Storage(tmp_path).write_bytes("x.safetensors", given.to_bytes())
    for place in (str(tmp_path / "x.safetensors"), (tmp_path / "x.safetensors").as_uri()):
        found = read_embedding(place)
        assert torch.equal(found.features, given.features)
        assert found.metadata == {"stream": "audio"}
    with pytest.raises(UserError, match="noise is no embedding"):
        Embedding.from_bytes(b"noise" * 10, name="noise")


def test_an_embedder_writes_beside_the_clips_name(tmp_path, monkeypatch):
    monkeypatch.setattr(trainers.embedding.ArtifactReader, "open", lambda p: open_array_clip("4"))
    storage = Storage(tmp_path)
    save_network(storage, "net.safetensors", encoder_of(stream_of("flow")))
    embedder = ClipEmbedder(
        *(storage, "net.safetensors", "motion", replace(SETTINGS, track="flow")),
        storage.join("embeddings"),
        device="cpu",
    )
    row = embedder({"id": array_examples()[4].id, "artifact": "/somewhere/clip-4.safetensors"})
    assert row["id"] == "004"
    assert (row["steps"], row["width"]) == (6, 12)
    assert read_embedding(row["embedding"]).features.shape == (6, 12)
    assert row["embedding"].endswith("embeddings/clip-4.safetensors")


def test_a_sequence_model_is_no_network_for_clips(tmp_path):
    storage = Storage(tmp_path)
    model = build_sequence_model(SequenceSettings(hidden=(3,)), feature_dim=4, n_classes=2)
    save_network(storage, "lstm.safetensors", model)
    with pytest.raises(UserError, match="is a sequence model"):
        ClipEmbedder(storage, "lstm.safetensors", "motion", SETTINGS, storage)

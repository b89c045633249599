from pipelines.systems.hybrid_streams import default_streams


def test_the_streams_of_hybrid_have_the_published_settings():
    streams = default_streams()
    assert list(streams) == ["spatial", "motion", "audio"]
    spatial, motion, audio = streams.values()
    assert [s.track for s in streams.values()] == ["frames", "flow", "sound"]
    assert (spatial.encoder, spatial.weights) == ("torchvision:vgg19", "imagenet")
    for chosen in (spatial, audio):
        assert (chosen.fit.lr, chosen.fit.lr_drop_every) == (1e-3, 14_000)
    assert (motion.encoder, motion.weights, motion.stack) == ("own:cnn_m", "none", 10)
    assert (motion.fit.lr, motion.fit.lr_drop_every) == (1e-2, 100_000)
    for chosen in (spatial, motion, audio):
        assert (chosen.fit.batch_size, chosen.fit.momentum) == (256, 0.9)
        assert chosen.fit.lr_drop_factor == 0.1
        assert chosen.crop == 224
    assert [s.sequence.model for s in streams.values()] == ["lstm", "lstm", "none"]

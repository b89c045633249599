from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from actors.errors import UserError
from actors.storage import Storage
from trainers.encoders.encoder import Encoder
from trainers.encoders.factory import build_encoder, rebuild_encoder
from trainers.encoders.specification import InputSpecification
from trainers.encoders.weights import inflate_conv1
from trainers.network_files import (
    load_network,
    network_from_bytes,
    network_to_bytes,
    save_network,
)
from trainers.settings import EncoderSettings
from trainers.streams.stream import standardize


def scratch(name, **options):
    return EncoderSettings(name=name, weights="none", **options)


@pytest.mark.parametrize(
    ("name", "side", "feature_dim"),
    [
        ("own:vgg_small", 32, 128),
        ("own:cnn_m_small", 32, 128),
        ("torchvision:resnet18", 32, 512),
        ("torchvision:mobilenet_v3_small", 32, 1024),
        ("torchvision:squeezenet1_1", 32, 512),
        ("torchvision:shufflenet_v2_x0_5", 32, 1024),
        ("torchvision:efficientnet_b0", 32, 1280),
        ("timm:resnet18", 32, 512),
        ("timm:mobilenetv3_small_050", 32, 1024),
    ],
)
def test_every_family_has_features_and_logits(name, side, feature_dim):
    network = build_encoder(scratch(name), in_channels=20, n_classes=5).eval()
    pictures = torch.randn(2, 20, side, side)
    with torch.no_grad():
        features = network.features(pictures)
        assert features.shape == (2, feature_dim) == (2, network.feature_dim)
        assert torch.equal(network.tail(features), network(pictures))
        assert network(pictures).shape == (2, 5)


def test_cnn_m_has_the_published_shape():
    network = build_encoder(scratch("own:cnn_m", hidden_dim=2048), in_channels=20, n_classes=101)
    shapes = [tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight")]
    assert shapes == [
        (96, 20, 7, 7),
        (256, 96, 5, 5),
        *[(512, c, 3, 3) for c in (256, 512, 512)],
        (4096, 512 * 6 * 6),
        (2048, 4096),
        (101, 2048),
    ]
    # The pooled map is 6x6 before the layer that makes it so for other sizes.
    pool = next(i for i, m in enumerate(network.body) if isinstance(m, torch.nn.AdaptiveAvgPool2d))
    with torch.no_grad():
        assert network.body[:pool](torch.zeros(1, 20, 224, 224)).shape == (1, 512, 6, 6)


def test_vgg19_features_are_fc6_after_its_nonlinearity():
    with torch.device("meta"):
        network = build_encoder(scratch("torchvision:vgg19"), in_channels=3, n_classes=4)
    assert network.feature_dim == 4096
    assert isinstance(network.body.classifier[-1], torch.nn.ReLU)
    assert [type(m).__name__ for m in network.tail] == [
        *("Dropout", "Linear", "ReLU", "Dropout", "Linear")
    ]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *(("resnet18", 1), ("mobilenet_v3_small", 1), ("squeezenet1_1", 1), ("googlenet", 1)),
        *(("vgg19", 2), ("efficientnet_b0", 1), ("convnext_tiny", 1), ("maxvit_t", 1)),
    ],
)
def test_dropout_holds_in_every_torchvision_model(name, layers):
    settings = scratch(f"torchvision:{name}", dropout=0.15)
    with torch.device("meta"):
        encoder = build_encoder(settings, in_channels=3, n_classes=4)
    rates = [layer.p for layer in encoder.modules() if isinstance(layer, torch.nn.Dropout)]
    # Layers within blocks have a rate of 0, and keep it.
    assert [rate for rate in rates if rate] == [0.15] * layers


def test_a_split_torchvision_model_computes_what_it_computed_whole(tmp_path):
    torch.manual_seed(0)
    whole = torchvision.models.mobilenet_v3_small(num_classes=6).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    settings = EncoderSettings(
        "torchvision:mobilenet_v3_small", weights=str(tmp_path / "whole.pth")
    )
    network = build_encoder(settings, in_channels=3, n_classes=6).eval()
    pictures = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(network(pictures), whole(pictures))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:vgg91", r"'torchvision:vgg91'.* did you mean .*'vgg19'"),
        ("own:cnn_n", r"'own:cnn_n'; choose one of cnn_m, .*did you mean 'cnn_m'"),
        ("timm:resnet81", r"'timm:resnet81'.* did you mean 'resnet18'"),
        ("os:getcwd", "os:getcwd is"),
        ("vgg19", "write own:NAME"),
    ],
)
def test_an_encoder_that_does_not_exist_is_named_with_what_is_near(name, message):
    with pytest.raises(UserError, match=message):
        build_encoder(scratch(name), in_channels=3, n_classes=2)


def test_a_classifier_of_other_classes_is_replaced_and_conv1_adapted(tmp_path):
    rgb = build_encoder(scratch("own:vgg_small"), in_channels=3, n_classes=10, seed=1)
    path = tmp_path / "rgb.safetensors"
    safetensors.torch.save_file(rgb.state_dict(), path)
    settings = EncoderSettings("own:vgg_small", weights=str(path))
    motion = build_encoder(settings, in_channels=20, n_classes=4, seed=2)
    assert torch.equal(
        motion.body[0].weight, rgb.body[0].weight.mean(1, keepdim=True).repeat(1, 20, 1, 1)
    )
    assert torch.equal(motion.body[4].weight, rgb.body[4].weight)
    assert motion.tail[-1].weight.shape == (4, 128)


def test_weights_that_do_not_fit_are_named_with_their_shapes(tmp_path):
    wide = build_encoder(scratch("own:vgg_small", feature_dim=64), in_channels=3, n_classes=2)
    torch.save({"state_dict": wide.state_dict()}, tmp_path / "wide.pt")
    with pytest.raises(UserError, match=r"body\.14\.weight is \(64, 128\), not \(128, 128\)"):
        build_encoder(
            EncoderSettings("own:vgg_small", weights=str(tmp_path / "wide.pt")),
            in_channels=3,
            n_classes=2,
        )
    with pytest.raises(UserError, match=r"100 of 122 tensors are missing \(body\.conv1\.weight"):
        build_encoder(
            EncoderSettings("torchvision:resnet18", weights=str(tmp_path / "wide.pt")),
            in_channels=3,
            n_classes=2,
        )


class Malicious:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_weights_files_that_are_none_are_refused(tmp_path, capsys):
    torch.save({"state_dict": Malicious()}, tmp_path / "bad.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"noise, not tensors")
    for name, message in [
        ("bad.pt", "pickled objects, which are never loaded"),
        ("noise.safetensors", "can't be read"),
        ("absent.pt", "there is no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            build_encoder(
                EncoderSettings("own:vgg_small", weights=str(tmp_path / name)),
                in_channels=3,
                n_classes=2,
            )
    assert capsys.readouterr().out == ""


def test_imagenet_weights_that_can_not_be_fetched_say_where_to_put_the_file(monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(UserError) as error:
        build_encoder(EncoderSettings("torchvision:vgg19"), in_channels=3, n_classes=2)
    assert str(tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth") in str(error.value)
    with pytest.raises(UserError, match="nobody publishes ImageNet weights of 'own:cnn_m'"):
        build_encoder(EncoderSettings("own:cnn_m"), in_channels=20, n_classes=2)


def test_conv1_is_inflated_as_temporal_segment_networks_do(real_data):
    known = np.load(real_data / "checks" / "cross_modality_conv1.npz")
    rgb = torch.from_numpy(known["rgb_conv1"])
    np.testing.assert_allclose(inflate_conv1(rgb, 20).numpy(), known["flow_conv1_20"], atol=1e-7)
    assert inflate_conv1(rgb, 3) is rgb


def test_one_channel_sees_what_three_equal_ones_saw():
    weight = torch.randn(4, 3, 5, 5)
    gray = torch.randn(2, 1, 9, 9)
    torch.testing.assert_close(
        torch.conv2d(gray, inflate_conv1(weight, 1)),
        torch.conv2d(gray.expand(-1, 3, -1, -1), weight),
    )


def test_a_network_survives_its_file(tmp_path):
    storage = Storage(tmp_path)
    network = build_encoder(
        scratch("torchvision:resnet18"), in_channels=1, n_classes=3, seed=4
    ).eval()
    save_network(storage, "net.safetensors", network, {"classes": ["a", "b", "c"]})
    loaded, meta = load_network(storage, "net.safetensors")
    pictures = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(pictures), network(pictures))
    assert meta == {"classes": ["a", "b", "c"]}
    assert not loaded.training
    with pytest.raises(UserError, match=r"'noise' is no network"):
        network_from_bytes(b"\x08\0\0\0\0\0\0\0{}      ", name="noise")


@pytest.mark.parametrize("description", ["{}", "[]", "3", "null"])
def test_a_file_that_describes_no_network_is_refused(description):
    content = safetensors.torch.save({}, {"description": description, "meta": "{}"})
    with pytest.raises(UserError, match=r"'x' is no network of this project: its description"):
        network_from_bytes(content, name="x")


def test_weights_of_a_network_that_is_built_differently_by_now_are_refused():
    network = build_encoder(scratch("torchvision:resnet18"), in_channels=3, n_classes=2)
    network.tail = network.tail[-1]  # as before its tail began with dropout
    with pytest.raises(UserError, match=r"x: the weights do not fit .* train it again .*tail\.1"):
        network_from_bytes(network_to_bytes(network), name="x")


def test_building_a_network_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = build_encoder(scratch("own:vgg_small"), in_channels=3, n_classes=2, seed=7)
    assert torch.equal(torch.rand(2), expected)
    second = build_encoder(scratch("own:vgg_small"), in_channels=3, n_classes=2, seed=7)
    assert torch.equal(first.body[0].weight, second.body[0].weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inputs_are_those_that_published_weights_expect(name, monkeypatch):
    """As torchvision's own model with transform_input and its own transforms."""
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, num_classes=7, init_weights=False).eval()
    state = whole.state_dict()
    monkeypatch.setattr("trainers.encoders.torchvision.published_state", lambda *a, **o: state)
    settings = EncoderSettings(f"torchvision:{name}", weights="imagenet")
    encoder = build_encoder(settings, in_channels=3, n_classes=7).eval()
    given = encoder.specification
    assert given.size == {"googlenet": 224, "inception_v3": 299}[name]
    pixels = torch.randint(0, 256, (2, 3, 96, 96)).float()
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    as_torchvision = torchvision.transforms.functional.normalize(
        pixels / 255, transforms.mean, transforms.std
    )
    whole.transform_input = True
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(standardize(pixels, given.mean, given.std)),
            whole(as_torchvision),
            atol=1e-4,
            rtol=1e-4,
        )
    flow = build_encoder(settings, in_channels=20, n_classes=7)
    assert flow.specification.mean is None


def test_a_specification_travels_with_its_encoder(tmp_path):
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    settings = EncoderSettings("torchvision:resnet18", weights=str(tmp_path / "resnet18.pth"))
    encoder = build_encoder(settings, in_channels=3, n_classes=2)
    expected = InputSpecification(3, 224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert encoder.specification == expected
    storage = Storage(tmp_path)
    save_network(storage, "saved.safetensors", encoder)
    loaded, _ = load_network(storage, "saved.safetensors")
    assert loaded.specification == expected
    started = build_encoder(
        EncoderSettings("torchvision:resnet18", weights=str(tmp_path / "saved.safetensors")),
        in_channels=3,
        n_classes=5,
    )
    assert started.specification == expected
    assert build_encoder(scratch("torchvision:resnet18"), in_channels=3, n_classes=2).specification
    assert torch.equal(started.body.layer4[0].conv1.weight, encoder.body.layer4[0].conv1.weight)


def test_a_model_of_timm_starts_from_a_file_and_has_its_specification(tmp_path):
    import timm

    whole = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    torch.save(whole.state_dict(), tmp_path / "vit.pth")
    settings = EncoderSettings(
        "timm:vit_tiny_patch16_224", weights=str(tmp_path / "vit.pth"), frozen=True
    )
    encoder = build_encoder(settings, in_channels=3, n_classes=4)
    pictures = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = whole.eval().forward_head(whole.forward_features(pictures), pre_logits=True)
        torch.testing.assert_close(encoder.features(pictures), expected)
    assert encoder.tail is None
    assert encoder.specification == InputSpecification(
        3, 224, (127.5,) * 3, (127.5,) * 3, interpolation="bicubic"
    )


def test_weights_of_timm_that_can_not_be_fetched_are_named(monkeypatch):
    import timm

    def refuse(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match="timm:resnet18.* can't be fetched .no route to host"):
        build_encoder(EncoderSettings("timm:resnet18"), in_channels=3, n_classes=2)


def test_a_frozen_encoder_has_no_tail_and_stays_in_evaluation_mode(tmp_path):
    settings = scratch("own:vgg_small", frozen=True)
    encoder = build_encoder(settings, in_channels=3, n_classes=4).train()
    assert encoder.tail is None
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    with pytest.raises(ValueError, match="call features"):
        encoder(torch.zeros(1, 3, 32, 32))
    save_network(Storage(tmp_path), "frozen.safetensors", encoder)
    loaded, _ = load_network(Storage(tmp_path), "frozen.safetensors")
    pictures = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.features(pictures), encoder.features(pictures))
    with pytest.raises(UserError, match="fine_tune_from"):
        replace(settings, fine_tune_from="13")


def test_layers_before_the_named_one_are_not_trained():
    settings = scratch("torchvision:resnet18", fine_tune_from="layer4")
    encoder = build_encoder(settings, in_channels=3, n_classes=4)
    still = {name for name, value in encoder.named_parameters() if not value.requires_grad}
    own = {name for name, _ in encoder.named_parameters()}
    assert {name for name in own - still} == {
        name for name in own if name.startswith(("body.layer4", "tail"))
    }
    encoder.train()
    before = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k}
    encoder(torch.randn(4, 3, 32, 32)).sum().backward()
    changed = {
        k for k, v in encoder.state_dict().items() if "running" in k and (v != before[k]).any()
    }
    assert changed == {name for name in before if name.startswith("body.layer4")}
    assert encoder.training and encoder.body.training
    with pytest.raises(UserError, match="no layer 'layer5'; did you mean 'layer4'"):
        build_encoder(replace(settings, fine_tune_from="layer5"), in_channels=3, n_classes=4)


def one_layer(
    settings: EncoderSettings, in_channels: int, n_classes: int | None, seed: int
) -> Encoder:
    body = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    tail = None if n_classes is None else torch.nn.Linear(4 * in_channels, n_classes)
    specification = InputSpecification(channels=in_channels, size=8, fit="squeeze")
    return Encoder(body, tail, specification=specification, feature_dim=4 * in_channels)


def test_a_users_encoder_is_built_by_name_and_survives_its_file(tmp_path):
    settings = scratch(f"{__name__}:one_layer")
    encoder = build_encoder(settings, in_channels=2, n_classes=3)
    assert (encoder.feature_dim, encoder.specification.fit) == (8, "squeeze")
    save_network(Storage(tmp_path), "mine.safetensors", encoder)
    loaded, _ = load_network(Storage(tmp_path), "mine.safetensors")
    pictures = torch.randn(2, 2, 8, 8)
    assert torch.equal(loaded(pictures), encoder(pictures))
    assert build_encoder(replace(settings, frozen=True), in_channels=2, n_classes=3).tail is None


@pytest.mark.parametrize(
    "description",
    [
        {"kind": "stream", "network": {"backbone": "vgg_small"}, "in_channels": 3, "n_classes": 4},
        {"kind": "sequence", "feature_dim": 6, "n_classes": 2, "hidden": [5, 4], "cell": "lstm"},
    ],
)
def test_networks_of_version_0_1_0_are_refused(description):
    network = build_encoder(scratch("own:vgg_small"), in_channels=3, n_classes=4)
    network.description = description
    with pytest.raises(UserError, match=r"old.safetensors: .* version 0.1.0 .* train it again"):
        network_from_bytes(network_to_bytes(network), name="old.safetensors")


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "own:vgg_small"])
@pytest.mark.parametrize("weights", ["imagenet", "/no/such/file.pt"])
def test_building_a_saved_encoder_again_reads_no_weights(name, weights):
    description = build_encoder(scratch(name), in_channels=3, n_classes=2).description
    changed = {**description, "encoder": {**description["encoder"], "weights": weights}}
    rebuilt = rebuild_encoder(changed).eval()
    assert rebuilt.description["encoder"]["weights"] == weights
    assert rebuilt(torch.zeros(1, 3, 32, 32)).shape == (1, 2)

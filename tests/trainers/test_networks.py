import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from actors.errors import UserError
from actors.storage import Storage
from trainers.encoders.backbones import build_network
from trainers.encoders.pretrained import inflate_conv1
from trainers.network_files import load_network, network_from_bytes, save_network
from trainers.settings import NetworkSettings


def scratch(backbone, **options):
    return NetworkSettings(backbone=backbone, weights="none", **options)


@pytest.mark.parametrize(
    ("backbone", "side", "feature_dim"),
    [
        ("vgg_small", 32, 128),
        ("cnn_m_small", 32, 128),
        ("resnet18", 32, 512),
        ("mobilenet_v3_small", 32, 1024),
        ("squeezenet1_1", 32, 512),
        ("shufflenet_v2_x0_5", 32, 1024),
        ("efficientnet_b0", 32, 1280),
    ],
)
def test_every_family_has_features_and_logits(backbone, side, feature_dim):
    network = build_network(scratch(backbone), in_channels=20, n_classes=5).eval()
    pictures = torch.randn(2, 20, side, side)
    with torch.no_grad():
        features = network.features(pictures)
        assert features.shape == (2, feature_dim) == (2, network.feature_dim)
        assert torch.equal(network.tail(features), network(pictures))
        assert network(pictures).shape == (2, 5)


def test_cnn_m_has_the_published_shape():
    network = build_network(scratch("cnn_m", hidden_dim=2048), in_channels=20, n_classes=101)
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
        network = build_network(scratch("vgg19"), in_channels=3, n_classes=4)
    assert network.feature_dim == 4096
    assert isinstance(network.body.classifier[-1], torch.nn.ReLU)
    assert [type(m).__name__ for m in network.tail] == [
        *("Dropout", "Linear", "ReLU", "Dropout", "Linear")
    ]


def test_a_split_torchvision_model_computes_what_it_computed_whole(tmp_path):
    torch.manual_seed(0)
    whole = torchvision.models.mobilenet_v3_small(num_classes=6).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    settings = NetworkSettings("mobilenet_v3_small", weights=str(tmp_path / "whole.pth"))
    network = build_network(settings, in_channels=3, n_classes=6).eval()
    pictures = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(network(pictures), whole(pictures))


def test_a_misspelt_backbone_is_named_with_what_is_near():
    with pytest.raises(UserError, match=r"'vgg91'; choose one of .* did you mean .*'vgg19'"):
        build_network(scratch("vgg91"), in_channels=3, n_classes=2)


def test_a_classifier_of_other_classes_is_replaced_and_conv1_adapted(tmp_path):
    rgb = build_network(scratch("vgg_small"), in_channels=3, n_classes=10, seed=1)
    path = tmp_path / "rgb.safetensors"
    safetensors.torch.save_file(rgb.state_dict(), path)
    settings = NetworkSettings("vgg_small", weights=str(path))
    motion = build_network(settings, in_channels=20, n_classes=4, seed=2)
    assert torch.equal(
        motion.body[0].weight, rgb.body[0].weight.mean(1, keepdim=True).repeat(1, 20, 1, 1)
    )
    assert torch.equal(motion.body[4].weight, rgb.body[4].weight)
    assert motion.tail[-1].weight.shape == (4, 128)


def test_weights_that_do_not_fit_are_named_with_their_shapes(tmp_path):
    wide = build_network(scratch("vgg_small", feature_dim=64), in_channels=3, n_classes=2)
    torch.save({"state_dict": wide.state_dict()}, tmp_path / "wide.pt")
    with pytest.raises(UserError, match=r"body\.14\.weight is \(64, 128\), not \(128, 128\)"):
        build_network(
            NetworkSettings("vgg_small", weights=str(tmp_path / "wide.pt")),
            in_channels=3,
            n_classes=2,
        )
    with pytest.raises(UserError, match=r"100 of 122 tensors are missing \(body\.conv1\.weight"):
        build_network(
            NetworkSettings("resnet18", weights=str(tmp_path / "wide.pt")),
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
        ("bad.pt", "pickled objects, which are never"),
        ("noise.safetensors", "can't be read"),
        ("absent.pt", "there is no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            build_network(
                NetworkSettings("vgg_small", weights=str(tmp_path / name)),
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
        build_network(NetworkSettings("vgg19"), in_channels=3, n_classes=2)
    assert str(tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth") in str(error.value)
    with pytest.raises(UserError, match="nobody publishes ImageNet weights of 'cnn_m'"):
        build_network(NetworkSettings("cnn_m"), in_channels=20, n_classes=2)


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
    network = build_network(scratch("resnet18"), in_channels=1, n_classes=3, seed=4).eval()
    save_network(storage, "net.safetensors", network, {"classes": ["a", "b", "c"]})
    loaded, meta = load_network(storage, "net.safetensors")
    pictures = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(pictures), network(pictures))
    assert meta == {"classes": ["a", "b", "c"]}
    assert not loaded.training
    with pytest.raises(UserError, match=r"'noise' is no network"):
        network_from_bytes(b"\x08\0\0\0\0\0\0\0{}      ", name="noise")


def test_building_a_network_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = build_network(scratch("vgg_small"), in_channels=3, n_classes=2, seed=7)
    assert torch.equal(torch.rand(2), expected)
    second = build_network(scratch("vgg_small"), in_channels=3, n_classes=2, seed=7)
    assert torch.equal(first.body[0].weight, second.body[0].weight)

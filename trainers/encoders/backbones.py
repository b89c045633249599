"""Convolutional networks of the single streams, by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torchvision
from torch import Tensor, nn

from actors.errors import UserError, nearest
from actors.weights import read_state
from trainers.encoders.cnn_m import cnn_m_body, cnn_m_small_body, cnn_m_tail
from trainers.encoders.pretrained import fit_state, imagenet_state
from trainers.encoders.vgg import small_tail, vgg_small_body
from trainers.fit.randomness import seeded
from trainers.settings import NetworkSettings

OWN_FAMILIES = ("cnn_m", "cnn_m_small", "vgg_small")


class StreamNetwork(nn.Module):
    """A network in two parts: pictures to features (fc6), features to logits.

    Args:
        body: (N, in_channels, h, w) -> (N, F).
        tail: (N, F) -> (N, C); its last layer is the classifier.
        description: what `build_network` needs to build it again, as plain values.
    """

    def __init__(self, body: nn.Module, tail: nn.Module, description: dict[str, Any]) -> None:
        super().__init__()
        self.body = body
        self.tail = tail
        self.description = description
        self.feature_dim = next(m.in_features for m in tail.modules() if isinstance(m, nn.Linear))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of pictures (N, in_channels, h, w)."""
        return self.tail(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """(N, F): the first fully connected layer's output after its nonlinearity (fc6), or what
        enters the classifier where that is the only one."""
        return self.body(x).flatten(1)


def check_backbone(name: str) -> None:
    """Raises UserError, naming what is near, when there is no network of that name."""
    known = [*OWN_FAMILIES, *torchvision.models.list_models(module=torchvision.models)]
    if name not in known:
        raise UserError(
            f"there is no network {name!r}; choose one of {', '.join(OWN_FAMILIES)}, or a "
            f"classification model of torchvision{nearest(name, known)}"
        )


def build_network(
    settings: NetworkSettings, *, in_channels: int, n_classes: int, seed: int = 0
) -> StreamNetwork:
    """Builds a network and gives it the weights that the settings name.

    Args:
        settings: backbone, weights, widths.
        in_channels: input channels (3 frames, 2L a stack, 1 a spectrogram); the first convolution
            is adapted, see `trainers.encoders.pretrained.inflate_conv1`.
        n_classes: classes, C; a classifier of another width in the weights is left out.
        seed: of the layers that start at random.

    Raises:
        UserError: no such network; no such weights; weights of another network.
    """
    check_backbone(settings.backbone)
    state: dict[str, Tensor] = {}
    if settings.weights == "imagenet":
        state = imagenet_state(settings.backbone)
    elif settings.weights not in (None, "none"):
        state = read_state(str(settings.weights))
    description = {
        "kind": "stream",
        "network": {**asdict(settings), "weights": "none"},
        "in_channels": in_channels,
        "n_classes": n_classes,
    }
    # An own generator for the random layers: the caller's random numbers stay as they were.
    with seeded(seed):
        if settings.backbone in OWN_FAMILIES:
            body, tail = _own(settings, in_channels, n_classes)
        else:
            model = _torchvision(settings, in_channels, n_classes)
            if state and not any(name.startswith("body.") for name in state):
                _fit(model, state, settings)
                state = {}
            body, tail = _split(model, n_classes)
    network = StreamNetwork(body, tail, description)
    if state:
        _fit(network, state, settings)
    return network


def _own(settings: NetworkSettings, in_channels: int, n_classes: int) -> tuple[nn.Module, ...]:
    if settings.backbone == "cnn_m":
        feature_dim = settings.feature_dim or 4096
        return cnn_m_body(in_channels, feature_dim=feature_dim), cnn_m_tail(
            n_classes,
            feature_dim=feature_dim,
            hidden_dim=settings.hidden_dim or 4096,
            dropout=settings.dropout,
        )
    small = vgg_small_body if settings.backbone == "vgg_small" else cnn_m_small_body
    feature_dim = settings.feature_dim or 128
    return small(in_channels, feature_dim=feature_dim), small_tail(
        n_classes, feature_dim=feature_dim, dropout=settings.dropout
    )


def _torchvision(settings: NetworkSettings, in_channels: int, n_classes: int) -> nn.Module:
    """torchvision's model with our classes, input channels and dropout, its own names kept."""
    extra: dict[str, Any] = {}
    if settings.backbone in ("googlenet", "inception_v3"):
        extra = {"aux_logits": False, "init_weights": False}
    model = torchvision.models.get_model(
        settings.backbone, weights=None, num_classes=n_classes, **extra
    )
    name, conv = _first_conv(model)
    if conv.in_channels != in_channels:
        wider = nn.Conv2d(
            in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        nn.init.kaiming_normal_(wider.weight, mode="fan_out", nonlinearity="relu")
        _put(model, name, wider)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout) and layer.p == 0.5:
            layer.p = settings.dropout
    return model


def _split(model: nn.Module, n_classes: int) -> tuple[nn.Module, nn.Module]:
    """Cuts a torchvision model after fc6: the model itself without what follows, and that."""
    name, last = _last_layer(model)
    if isinstance(last, nn.Conv2d):  # SqueezeNet classifies with a convolution
        body = nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1))  # type: ignore[arg-type]
        return body, nn.Sequential(nn.Dropout(0.5), nn.Linear(last.in_channels, n_classes))
    parent_name, _, child = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    if parent_name and "." not in parent_name and isinstance(parent, nn.Sequential):
        linear = [i for i, layer in enumerate(parent) if isinstance(layer, nn.Linear)]
        if len(linear) > 1:  # its first linear layer and the nonlinearity after it are fc6
            cut = linear[0] + 2
            setattr(model, parent_name, parent[:cut])
            return model, parent[cut:]
    setattr(parent, child, nn.Identity())
    return model, nn.Sequential(last)


def _fit(model: nn.Module, state: dict[str, Tensor], settings: NetworkSettings) -> None:
    conv1 = f"{_first_conv(model)[0]}.weight"
    last, _ = _last_layer(model)
    head = [n for n in (f"{last}.weight", f"{last}.bias") if n in model.state_dict()]
    fit_state(model, state, conv1=conv1, head=head, source=str(settings.weights))


def _first_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))


def _last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1]


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)

"""Classification models of torchvision as encoders: ``torchvision:NAME``."""

from __future__ import annotations

from typing import Any, Literal

import torchvision
from torch import Tensor, nn

from actors.errors import UserError, nearest
from actors.weights import published_state
from trainers.encoders.encoder import Encoder
from trainers.encoders.layers import first_conv, last_layer, put
from trainers.encoders.specification import InputSpecification
from trainers.encoders.weights import fit_model_state, is_own, saved_specification
from trainers.settings import EncoderSettings

TRANSFORM_INPUT = ("googlenet", "inception_v3")
"""Models that convert their inputs, normalized as ImageNet's pixels, to mean 0.5 and standard
deviation 0.5 of values in 0 to 1, where they carry published weights (torchvision's
``transform_input``). Here the specification asks for inputs so normalized in the first place, which
computes the same and also holds for other numbers of input channels."""


def names() -> list[str]:
    """Names of torchvision's classification models."""
    return torchvision.models.list_models(module=torchvision.models)


def check(name: str) -> None:
    """Checks that torchvision has a classification model of this name.

    Raises:
        UserError: it has none.
    """
    if name not in names():
        raise UserError(
            f"there is no encoder 'torchvision:{name}': torchvision has no classification model "
            f"of that name{nearest(name, names())}"
        )


def build(
    name: str,
    settings: EncoderSettings,
    state: dict[str, Tensor] | None,
    *,
    in_channels: int,
    n_classes: int | None,
) -> Encoder:
    """The model, cut after fc6 into body and tail.

    Args:
        name: a name that `check` accepts.
        settings: dropout, and what the weights are called in errors.
        state: the model's weights by torchvision's names, or those of an `Encoder`; None: random.
        in_channels: channels of a sample; the first convolution is adapted.
        n_classes: classes, C; None: no tail.
    """
    model = _model(name, settings, in_channels, n_classes or 2)
    if state is not None and not is_own(state):
        fit_model_state(model, state, source=str(settings.weights))
    body, tail = _split(model, n_classes or 2, settings.dropout)
    encoder = Encoder(body, tail, specification=_specification(name, settings, state, in_channels))
    if state is not None and is_own(state):
        fit_model_state(encoder, state, source=str(settings.weights))
    if n_classes is None:
        encoder.tail = None
    return encoder


def imagenet_state(name: str) -> dict[str, Tensor]:
    """torchvision's best ImageNet weights of a model, from its cache or else its server.

    Raises:
        UserError: they can be neither found nor fetched.
    """
    return published_state(
        torchvision.models.get_model_weights(name).DEFAULT,
        what=f"ImageNet weights of 'torchvision:{name}'",
        otherwise="give its path as weights, or none to start from scratch",
    )


def _specification(
    name: str, settings: EncoderSettings, state: dict[str, Tensor] | None, in_channels: int
) -> InputSpecification:
    """The weights' own mean and deviation, where they have any and the channels are theirs."""
    if state is not None and is_own(state):
        return saved_specification(str(settings.weights), in_channels)
    transforms: Any = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size = transforms.crop_size[0]
    interpolation: Literal["bilinear", "bicubic"] = (
        "bicubic" if transforms.interpolation.value == "bicubic" else "bilinear"
    )
    given = InputSpecification(in_channels, size, interpolation=interpolation)
    if state is None or in_channels != 3:
        return given
    mean, std = _moments(transforms)
    if name in TRANSFORM_INPUT:
        mean, std = (127.5,) * 3, (127.5,) * 3
    return InputSpecification(in_channels, size, mean, std, interpolation)


def _moments(transforms: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the weights' transforms, of values in 0 to 255."""
    mean = tuple(round(255 * float(value), 6) for value in transforms.mean)
    std = tuple(round(255 * float(value), 6) for value in transforms.std)
    return mean, std


def _model(name: str, settings: EncoderSettings, in_channels: int, n_classes: int) -> nn.Module:
    """torchvision's model with our classes and input channels, its own names kept."""
    extra: dict[str, Any] = {}
    if name in TRANSFORM_INPUT:
        extra = {"aux_logits": False, "init_weights": False}
    model = torchvision.models.get_model(name, weights=None, num_classes=n_classes, **extra)
    conv_name, conv = first_conv(model)
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
        put(model, conv_name, wider)
    return model


def _set_dropout(model: nn.Module, dropout: float) -> bool:
    """Sets the model's dropout layers (those within its blocks have a rate of 0, and keep it).

    Returns:
        Whether it has any.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Dropout) and layer.p > 0]
    for layer in layers:
        layer.p = dropout
    return bool(layers)


def _split(model: nn.Module, n_classes: int, dropout: float) -> tuple[nn.Module, nn.Module]:
    """Cuts a torchvision model after fc6: the model itself without what follows, and that.

    What follows begins with dropout where the model has none of its own.
    """
    added = [] if _set_dropout(model, dropout) else [nn.Dropout(dropout)]
    name, last = last_layer(model)
    if isinstance(last, nn.Conv2d):  # SqueezeNet classifies with a convolution
        body = nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1))  # type: ignore[arg-type]
        return body, nn.Sequential(nn.Dropout(dropout), nn.Linear(last.in_channels, n_classes))
    parent_name, _, child = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    if parent_name and "." not in parent_name and isinstance(parent, nn.Sequential):
        linear = [i for i, layer in enumerate(parent) if isinstance(layer, nn.Linear)]
        if len(linear) > 1:  # its first linear layer and the nonlinearity after it are fc6
            cut = linear[0] + 2
            setattr(model, parent_name, parent[:cut])
            return model, nn.Sequential(*added, *list(parent)[cut:]) if added else parent[cut:]
    setattr(parent, child, nn.Identity())
    return model, nn.Sequential(*added, last)

"""Encoders by name: ``own:``, ``torchvision:``, ``timm:`` and ``package.module:function``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from actors.errors import UserError, nearest
from actors.weights import read_state
from trainers.encoders import own, timm, torchvision
from trainers.encoders.encoder import Encoder
from trainers.encoders.weights import fit_model_state, saved_specification, specification_of
from trainers.fit.randomness import seeded
from trainers.named import resolve
from trainers.settings import EncoderSettings

KIND = "encoder"
"""What an encoder's description says that it is."""


def check_encoder(name: str) -> None:
    """Checks that there is an encoder of a name; nothing is built.

    Raises:
        UserError: there is none; the message names what is near.
    """
    source, _, rest = name.partition(":")
    if source == "own":
        own.check(rest)
    elif source == "torchvision":
        torchvision.check(rest)
    elif source == "timm":
        timm.check(rest)
    else:
        resolve(name, returns=Encoder)


def build_encoder(
    settings: EncoderSettings, *, in_channels: int, n_classes: int | None, seed: int = 0
) -> Encoder:
    """Builds an encoder and gives it the weights that the settings name.

    Args:
        settings: name, weights, widths, and which part is trained.
        in_channels: channels of a sample (3 a frame, 2L a stack, 1 a spectrogram); the first
            convolution of published weights is adapted, see `trainers.encoders.weights`.
        n_classes: classes, C; a classifier of another width in the weights is left out. None, or a
            frozen encoder: it has no tail.
        seed: of the layers that start at random.

    Raises:
        UserError: no such encoder; no such weights; weights of another encoder.
    """
    check_encoder(settings.name)
    n_classes = None if settings.frozen else n_classes
    # An own generator for the random layers: the caller's random numbers stay as they were.
    with seeded(seed):
        encoder = _build(settings, in_channels, n_classes, seed)
    encoder.description = {
        "kind": KIND,
        "encoder": {**asdict(settings), "weights": "none"},
        "in_channels": in_channels,
        "n_classes": n_classes,
        "specification": asdict(encoder.specification),
    }
    _choose_trained(encoder, settings)
    return encoder


def rebuild_encoder(description: Mapping[str, Any]) -> Encoder:
    """An encoder with random weights, from its `description`; nothing is fetched or read."""
    encoder = build_encoder(
        EncoderSettings(**{**description["encoder"], "weights": "none"}),
        in_channels=description["in_channels"],
        n_classes=description["n_classes"],
    )
    # The specification belongs to the weights that the encoder was built with at first.
    encoder.specification = specification_of(description["specification"])
    encoder.description = dict(description)
    return encoder


def _build(
    settings: EncoderSettings, in_channels: int, n_classes: int | None, seed: int
) -> Encoder:
    source, _, name = settings.name.partition(":")
    if source == "torchvision":
        state = _file_state(settings)
        if settings.weights == "imagenet":
            state = torchvision.imagenet_state(name)
        return torchvision.build(
            name, settings, state, in_channels=in_channels, n_classes=n_classes
        )
    if source == "timm":
        state = _file_state(settings)
        return timm.build(name, settings, state, in_channels=in_channels, n_classes=n_classes)
    if source != "own":
        return resolve(settings.name, returns=Encoder)(settings, in_channels, n_classes, seed)
    _refuse_imagenet(settings)
    encoder = own.build(name, settings, in_channels=in_channels, n_classes=n_classes)
    state = _file_state(settings)
    if state is not None:
        fit_model_state(encoder, state, source=str(settings.weights))
        encoder.specification = saved_specification(str(settings.weights), in_channels)
    return encoder


def _file_state(settings: EncoderSettings) -> dict[str, Tensor] | None:
    """The tensors of the weights' file, or None where the weights are no file."""
    if settings.weights in (None, "none", "imagenet"):
        return None
    return read_state(str(settings.weights))


def _refuse_imagenet(settings: EncoderSettings) -> None:
    if settings.weights == "imagenet":
        raise UserError(
            f"nobody publishes ImageNet weights of {settings.name!r}: give the path of a "
            ".safetensors or .pt file as weights, or none to start from scratch"
        )


def _choose_trained(encoder: Encoder, settings: EncoderSettings) -> None:
    if settings.frozen:
        encoder.freeze()
    if settings.fine_tune_from is None:
        return
    try:
        encoder.train_from(settings.fine_tune_from)
    except KeyError as error:
        known = [name.removeprefix("body.") for name, _ in encoder.named_modules() if name]
        raise UserError(
            f"fine_tune_from: {settings.name!r} has no layer {settings.fine_tune_from!r}"
            f"{nearest(settings.fine_tune_from, known)}; it has "
            f"{', '.join(name for name in known if '.' not in name)}"
        ) from error

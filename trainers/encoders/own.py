"""The encoders that come with Multiclue: ``own:NAME``."""

from __future__ import annotations

from torch import nn

from actors.errors import UserError, nearest
from trainers.encoders.cnn_m import cnn_m_body, cnn_m_small_body, cnn_m_tail
from trainers.encoders.encoder import Encoder
from trainers.encoders.specification import InputSpecification
from trainers.encoders.vgg import small_tail, vgg_small_body
from trainers.settings import EncoderSettings

SMALL_BODIES = {"cnn_m_small": cnn_m_small_body, "vgg_small": vgg_small_body}

NAMES = ("cnn_m", *SMALL_BODIES)


def check(name: str) -> None:
    """Checks that there is an own encoder of this name.

    Raises:
        UserError: there is none.
    """
    if name not in NAMES:
        raise UserError(
            f"there is no encoder 'own:{name}'; choose one of {', '.join(NAMES)}"
            f"{nearest(name, NAMES)}"
        )


def build(
    name: str, settings: EncoderSettings, *, in_channels: int, n_classes: int | None
) -> Encoder:
    """The encoder with random weights; it takes samples of any size.

    Args:
        name: one of `NAMES`.
        settings: widths and dropout.
        in_channels: channels of a sample.
        n_classes: classes, C; None: no tail.
    """
    small = name != "cnn_m"
    feature_dim = settings.feature_dim or (128 if small else 4096)
    body = (SMALL_BODIES[name] if small else cnn_m_body)(in_channels, feature_dim=feature_dim)
    tail: nn.Module | None = None
    if n_classes is not None and small:
        tail = small_tail(n_classes, feature_dim=feature_dim, dropout=settings.dropout)
    elif n_classes is not None:
        tail = cnn_m_tail(
            n_classes,
            feature_dim=feature_dim,
            hidden_dim=settings.hidden_dim or 4096,
            dropout=settings.dropout,
        )
    specification = InputSpecification(channels=in_channels, size=None)
    return Encoder(body, tail, specification=specification, feature_dim=feature_dim)

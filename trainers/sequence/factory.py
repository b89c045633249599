"""Sequence models by name: lstm, peephole and ``package.module:function``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.errors import UserError
from trainers.fit.randomness import seeded
from trainers.named import resolve
from trainers.sequence.model import SequenceModel
from trainers.sequence.recurrent import StackedLSTM
from trainers.settings import SequenceSettings, check_sequence_name

KIND = "sequence"
"""What a sequence model's description says that it is."""

_KEPT = ("model", "hidden", "dropout", "input_dropout", "input_noise")
"""Settings that the network itself depends on."""


def check_sequence_model(name: str) -> None:
    """Checks that there is a sequence model of a name; nothing is built.

    Raises:
        UserError: there is none.
    """
    check_sequence_name(name)
    if ":" in name:
        resolve(name, returns=SequenceModel)


def build_sequence_model(
    settings: SequenceSettings, *, feature_dim: int, n_classes: int, seed: int = 0
) -> SequenceModel:
    """Builds a sequence model with random weights.

    Args:
        settings: name and sizes; a ``package.module:function`` is called with (settings,
            feature_dim, n_classes) and returns the `SequenceModel`.
        feature_dim: width of the features, F.
        n_classes: classes, C.
        seed: of the weights; the caller's random numbers stay as they were.

    Raises:
        UserError: there is no such model.
    """
    check_sequence_model(settings.model)
    if not settings.present:
        raise UserError("the sequence model is 'none': there is nothing to build")
    make = resolve(settings.model, returns=SequenceModel) if ":" in settings.model else StackedLSTM
    with seeded(seed):
        model = make(settings, feature_dim, n_classes)
    kept = {name: getattr(settings, name) for name in _KEPT}
    model.description = {
        "kind": KIND,
        "feature_dim": feature_dim,
        "n_classes": n_classes,
        "settings": {**kept, "hidden": list(settings.hidden)},
    }
    return model


def rebuild_sequence_model(description: Mapping[str, Any]) -> SequenceModel:
    """A sequence model without its weights, from its `description`."""
    settings = dict(description["settings"])
    settings["hidden"] = tuple(settings["hidden"])
    return build_sequence_model(
        SequenceSettings(**settings),
        feature_dim=description["feature_dim"],
        n_classes=description["n_classes"],
    )

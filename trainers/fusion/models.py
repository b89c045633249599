"""Fusions by name: fitted, written to a file, and read from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.numpy

from actors.errors import UserError
from trainers.fusion.contract import FusionModel, OnEpoch
from trainers.fusion.network import KEY, FusionNetwork
from trainers.fusion.training import fit_fusion
from trainers.named import name_of, resolve, resolve_class
from trainers.settings import FusionSettings
from trainers.table import Table
from trainers.tensor_files import read_metadata

__all__ = ["FUSIONS", "check_fusion", "fit", "from_bytes", "to_bytes"]

FUSIONS: dict[str, Callable[..., FusionModel]] = {"regularized": cast(Any, fit_fusion)}
"""``fusion.model`` -> the function that fits it; called as `fit` is."""

CLASS, CONTENT = "fusion_class", "content"
ATTRIBUTES = ("widths", "n_classes", "multi_label")


def check_fusion(name: str) -> None:
    """Checks that there is a fusion of a name; nothing is fitted.

    Raises:
        UserError: there is none.
    """
    if name not in FUSIONS:
        resolve(name, returns=FusionModel)  # type: ignore[type-abstract]


def fit(
    table: Table,
    settings: FusionSettings,
    *,
    seed: int,
    validation: Table | None = None,
    on_epoch: OnEpoch | None = None,
) -> FusionModel:
    """Fits the fusion that ``settings.model`` names.

    Args:
        table: the clips to train on; features are streams' mean embeddings.
        settings: of the fusion.
        seed: of everything drawn at random.
        validation: clips that train nothing, by which training may stop.
        on_epoch: called with the epoch, from 1, and its measures; not by a user's own function.

    Raises:
        UserError: there is no such function, or it returns no complete `FusionModel`, or one for
            other features or targets than the table's.
        ValueError: see `trainers.fusion.training.fit_fusion`.
    """
    if settings.model in FUSIONS:
        function = FUSIONS[settings.model]
        return function(table, settings, seed=seed, validation=validation, on_epoch=on_epoch)
    function = resolve(settings.model, returns=FusionModel)  # type: ignore[type-abstract]
    model = function(table, settings, seed=seed, validation=validation)
    if not isinstance(model, FusionModel):
        raise UserError(f"{settings.model} returned a {type(model).__name__}, not a FusionModel")
    missing = [name for name in ATTRIBUTES if not hasattr(model, name)]
    if missing:
        raise UserError(
            f"the model that {settings.model} returned has no {', '.join(missing)}; set what "
            "trainers.fusion.contract.FusionModel lists"
        )
    _check_model(model, settings.model, table)
    return model


def _check_model(model: FusionModel, name: str, table: Table) -> None:
    """Checks that a user's function has fitted the table that it was given."""
    for attribute, wanted in (
        ("widths", table.widths),
        ("n_classes", table.targets.n_classes),
        ("multi_label", table.targets.multi_label),
    ):
        found = getattr(model, attribute)
        if not _same(found, wanted):
            raise UserError(
                f"the model that {name} returned does not fit the training clips: {attribute} is "
                f"{found}, expected {wanted}; set it from the table that {name} is given"
            )


def _same(found: Any, wanted: Any) -> bool:
    """Whether values are equal and of one type; NumPy's numbers count as Python's."""
    if isinstance(wanted, dict):
        return (
            isinstance(found, Mapping)
            and set(found) == set(wanted)
            and all(_same(found[name], wanted[name]) for name in wanted)
        )
    found, wanted = (v.item() if isinstance(v, np.generic) else v for v in (found, wanted))
    return type(found) is type(wanted) and found == wanted


def to_bytes(model: FusionModel) -> bytes:
    """A model as a file's content, which names the class that reads it.

    Raises:
        UserError: the class can't be found by its name.
    """
    content = model.to_bytes()
    if isinstance(model, FusionNetwork):
        return content
    name = name_of(type(model))
    tensors = {CONTENT: np.frombuffer(content, np.uint8)}
    return safetensors.numpy.save(tensors, metadata={CLASS: name})


def from_bytes(content: bytes, *, where: str = "the fusion") -> FusionModel:
    """The model that `to_bytes` wrote.

    Args:
        where: the content is from, for messages.

    Raises:
        UserError: the content is damaged or holds something else, or its class is missing or no
            `FusionModel`.
    """
    try:
        metadata = read_metadata(content)
        if KEY in metadata:
            return FusionNetwork.from_bytes(content)
        if CLASS not in metadata:
            raise UserError(f"{where} holds no fusion: its metadata names {sorted(metadata)}")
        inner = safetensors.numpy.load(content)[CONTENT].tobytes()
    except KeyError as error:
        raise UserError(f"{where} is incomplete: no {error.args[0]!r}") from error
    except (ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise UserError(f"{where} is damaged: {error}") from error
    found = resolve_class(metadata[CLASS], FusionModel)  # type: ignore[type-abstract]
    return found.from_bytes(inner)

"""Models of timm as encoders: ``timm:NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from actors.errors import UserError, nearest
from trainers.encoders.encoder import Encoder
from trainers.encoders.specification import InputSpecification
from trainers.encoders.weights import fit_model_state, is_own, load_state, saved_specification
from trainers.settings import EncoderSettings

if TYPE_CHECKING:
    from types import ModuleType


def check(name: str) -> None:
    """Checks that timm has a model of this name.

    Raises:
        UserError: it has none, or timm is not installed.
    """
    timm = _timm()
    if not timm.is_model(name):
        raise UserError(
            f"there is no encoder 'timm:{name}': timm has no model of that name"
            f"{nearest(name, timm.list_models())}"
        )


def build(
    name: str,
    settings: EncoderSettings,
    state: dict[str, Tensor] | None,
    *,
    in_channels: int,
    n_classes: int | None,
) -> Encoder:
    """timm's model up to its pooled features, and a linear classifier on them.

    Args:
        name: a name that `check` accepts.
        settings: dropout before the classifier; weights ``imagenet`` are timm's pretrained ones.
        state: weights of a file, by timm's names or those of an `Encoder`; None: there is no file.
        in_channels: channels of a sample; timm adapts the first convolution.
        n_classes: classes, C; None: no tail.

    Raises:
        UserError: weights can't be fetched, or are of another model.
    """
    model = _model(name, in_channels, pretrained=settings.weights == "imagenet")
    config = _config(model)
    if state is not None and not is_own(state):
        _load(model, state, settings, in_channels)
    width = int(getattr(model, "head_hidden_size", None) or model.num_features)
    tail = None
    if n_classes is not None:
        tail = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(width, n_classes))
    trained = state is not None or settings.weights == "imagenet"
    specification = _specification(config, in_channels, moments=trained)
    if state is not None and is_own(state):
        specification = saved_specification(str(settings.weights), in_channels)
    encoder = Encoder(model, tail, specification=specification, feature_dim=width)
    if state is not None and is_own(state):
        fit_model_state(encoder, state, source=str(settings.weights))
    return encoder


def _model(name: str, in_channels: int, *, pretrained: bool) -> Any:
    timm = _timm()
    published = timm.models.get_pretrained_cfg(name)
    if pretrained and not (published and published.has_weights):
        raise UserError(
            f"nobody publishes weights of 'timm:{name}': give the path of a .safetensors or .pt "
            "file as weights, or none to start from scratch"
        )
    try:
        return timm.create_model(name, pretrained=pretrained, in_chans=in_channels, num_classes=0)
    except (OSError, RuntimeError) as error:  # what Hugging Face's hub raises is an OSError
        if not pretrained:
            raise
        raise UserError(
            f"weights of 'timm:{name}' can't be fetched ({error}): fetch them where there is a "
            f'network (python -c "import timm; timm.create_model({name!r}, pretrained=True)" fills '
            "the cache of Hugging Face, ~/.cache/huggingface), give the path of a .safetensors or "
            ".pt file as weights, or none to start from scratch"
        ) from error


def _load(
    model: nn.Module, state: dict[str, Tensor], settings: EncoderSettings, in_channels: int
) -> None:
    """Weights by timm's names; the file's classifier is left out."""
    adapt = _timm().models.adapt_input_conv
    first = getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    given = dict(state)
    for name in [first] if isinstance(first, str) else first:
        if f"{name}.weight" in given:
            given[f"{name}.weight"] = adapt(in_channels, given[f"{name}.weight"])
    load_state(model, given, source=str(settings.weights))


def _config(model: nn.Module) -> dict[str, Any]:
    from timm.data import resolve_data_config

    return resolve_data_config({}, model=model)


def _specification(
    config: dict[str, Any], in_channels: int, *, moments: bool
) -> InputSpecification:
    """timm's data configuration; mean and deviation where weights were trained with them."""
    known = moments and in_channels == len(config["mean"])
    mean, std = (tuple(round(255 * float(v), 6) for v in config[k]) for k in ("mean", "std"))
    return InputSpecification(
        channels=in_channels,
        size=int(config["input_size"][-1]),
        mean=mean if known else None,
        std=std if known else None,
        interpolation="bicubic" if config["interpolation"] == "bicubic" else "bilinear",
        fit="squeeze" if config["crop_mode"] == "squash" else "crop",
    )


def _timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(
            "encoders of timm need the package timm: install it with `pip install timm`"
        ) from error
    return timm

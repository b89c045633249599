"""Code outside this project that a saved model names; it is registered with the model."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.errors import UserError
from trainers.encoders import own
from trainers.fusion.models import CLASS
from trainers.model_files import FACTS
from trainers.named import is_named
from trainers.parts import KEY
from trainers.tensor_files import read_metadata

OWN = {"actors", "trainers"}
"""Packages that are stored with every registered model."""

BUILT_IN = {f"own:{name}" for name in own.NAMES}
"""Names that look like a package's, but are this project's: none is code of a folder ``own``."""

SETTINGS = ("description", "meta", KEY)
"""Entries of a part's metadata that hold settings as JSON."""

NAMING = {"encoder", "samples", "model"}
"""Keys in these whose values may name code. Where ``encoder`` holds a description instead, its
``name`` does."""


def user_code(files: Mapping[str, bytes]) -> list[str]:
    """Folders and files of the packages that a model names as ``package.module:name``.

    Installed packages are left out: the model's requirements name them.

    Args:
        files: a saved model's; see `trainers.model_files.read_files`.

    Raises:
        UserError: a package is several folders.
    """
    found = {place for name in _packages(files) if (place := _place(name)) is not None}
    return sorted(str(place) for place in found)


def installed_packages(files: Mapping[str, bytes]) -> list[str]:
    """Distributions of the installed packages that a model names as ``package.module:name``.

    The encoder ``timm:NAME`` names timm.
    """
    known = importlib.metadata.packages_distributions()
    return sorted({one for name in _packages(files) for one in known.get(name, ())})


def _packages(files: Mapping[str, bytes]) -> set[str]:
    """Top-level packages that a model names, but for those that travel with it anyway."""
    outside = (text for text in _named(files) if text not in BUILT_IN)
    return {text.partition(":")[0].partition(".")[0] for text in outside} - OWN


def _named(files: Mapping[str, bytes]) -> Iterator[str]:
    """Every name of code in a model: classes of parts, and what their settings name."""
    for name, content in files.items():
        if name == FACTS:
            yield from (part["kind"] for part in json.loads(content)["parts"])
            continue
        metadata = read_metadata(content)
        if CLASS in metadata:
            yield metadata[CLASS]
        for key in SETTINGS:
            yield from _texts(json.loads(metadata.get(key, "{}")))


def _texts(value: Any) -> Iterator[str]:
    """Names of code in nested settings, under the keys that hold such names only.

    Texts elsewhere (a class may be called ``cat:dog``) are not names of code.
    """
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            code = one.get("name") if key == "encoder" and isinstance(one, Mapping) else one
            if isinstance(code, str) and key in NAMING and is_named(code):
                yield code
            yield from _texts(one)


def _place(package: str) -> Path | None:
    """The file or folder of a top-level package; None where it is built in, installed or unknown.

    Nothing of it is imported.

    Raises:
        UserError: it is several folders, as a package without ``__init__.py`` may be.
    """
    if package in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # of `__main__`
        return None
    if spec is None:
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    places = list(dict.fromkeys(str(Path(place).resolve()) for place in places))
    if not places:
        return None
    if len(places) > 1:
        raise UserError(
            f"the package {package!r}, which the model names, is several folders "
            f"({', '.join(places)}): add an __init__.py to the one that is meant"
        )
    origin = Path(places[0])
    installed = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib")]
    if any(origin.is_relative_to(Path(folder).resolve()) for folder in installed):
        return None
    return origin.parent if origin.name == "__init__.py" else origin

"""A trained system as files: ``system.json``, and one safetensors file per part.

Nothing is pickled. The class of a part is found by its name, and only if it is a `Part`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from actors.errors import UserError
from actors.extract_settings import ExtractSettings
from actors.flow.choice import RAFT
from actors.flow.raft import raft_bytes
from actors.storage import Storage
from actors.tracks import FLOW
from trainers.named import name_of, resolve_class
from trainers.parts import Part
from trainers.predictor import NamedPart, Predictor
from trainers.records import from_record, to_record

FORMAT = 2
"""Version of the format. Version 1 was of one system only, in ``hybrid.json``."""
FACTS = "system.json"
OLD_FACTS = "hybrid.json"
SUFFIX = ".safetensors"
RAFT_WEIGHTS = "raft.safetensors"


def to_files(predictor: Predictor) -> dict[str, bytes]:
    """File name -> content; `from_files` reads it.

    Raises:
        UserError: a part's class can't be found by its name.
        ValueError: a part's name can't be a file's.
    """
    files = {FACTS: json.dumps(_record(predictor), indent=1).encode()}
    files |= {part_file(one.name): one.part.to_bytes() for one in predictor.parts}
    chosen = predictor.extract.chosen_flow
    if isinstance(chosen, RAFT) and FLOW in predictor.tracks:
        files[RAFT_WEIGHTS] = predictor.raft_weights or raft_bytes(chosen)
    return files


def part_file(name: str) -> str:
    """The file of a part.

    Raises:
        ValueError: the name can't be a file's, or is another file's.
    """
    file = f"{name}{SUFFIX}"
    if not name or name.startswith(".") or {"/", "\\"} & set(name) or file == RAFT_WEIGHTS:
        raise ValueError(f"a part can't be named {name!r}; take letters, digits, '.' and '_'")
    return file


def _record(predictor: Predictor) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "system": predictor.system,
        "title": predictor.title,
        "classes": list(predictor.classes),
        "multi_label": predictor.multi_label,
        "extract": to_record(predictor.extract),
        "streams": {stream: {"track": track} for stream, track in predictor.streams.items()},
        "parts": [
            {
                "name": one.name,
                "kind": name_of(type(one.part)),
                "needs": list(one.needs),
                "file": part_file(one.name),
            }
            for one in predictor.parts
        ],
        "output": predictor.output,
        "embedding": predictor.embedding,
        "rows": dict(predictor.rows),
        "facts": dict(predictor.facts),
    }


def from_files(files: Mapping[str, bytes], *, where: str = "the model") -> Predictor:
    """The predictor from the contents of its files.

    Args:
        files: file name -> content.
        where: the model's place, for errors.

    Raises:
        UserError: a file is missing, damaged, or of another version; a part's class is missing or
            no `Part`.
    """
    check_present(files, where)
    try:
        record = json.loads(files[FACTS])
        if record["format"] != FORMAT:
            raise UserError(
                f"{where} has format {record['format']}, this version reads {FORMAT}; "
                "train it again, or predict with the version that made it"
            )
        return Predictor(
            system=record["system"],
            title=record["title"],
            classes=tuple(record["classes"]),
            multi_label=record["multi_label"],
            extract=from_record(ExtractSettings, record["extract"]),
            streams={name: one["track"] for name, one in record["streams"].items()},
            parts=tuple(_part(files, one) for one in record["parts"]),
            output=record["output"],
            embedding=record["embedding"],
            rows=record["rows"],
            facts=record["facts"],
            raft_weights=files.get(RAFT_WEIGHTS),
        )
    except KeyError as error:
        raise UserError(f"{where} is incomplete: no {error.args[0]!r}") from error
    except (ValueError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{where} is damaged: {error}") from error


def _part(files: Mapping[str, bytes], record: Mapping[str, Any]) -> NamedPart:
    kind = resolve_class(record["kind"], Part)  # type: ignore[type-abstract]
    part = kind.from_bytes(files[record["file"]], record["file"])
    return NamedPart(record["name"], part, tuple(record["needs"]))


def check_present(names: Mapping[str, Any] | list[str], where: str) -> None:
    """Checks that files are a model's that this version reads.

    Raises:
        UserError: they are not.
    """
    if FACTS in names:
        return
    if OLD_FACTS in names:
        raise UserError(
            f"{where} was saved by version 0.1.0 of Multiclue ({OLD_FACTS}), which this version "
            "can't read: train the model again with this version, or predict with version 0.1.0"
        )
    raise UserError(f"{where} holds no model: there is no {FACTS}")


def save(predictor: Predictor, folder: Storage | Path | str) -> None:
    """Writes the model's files, ``system.json`` last."""
    storage = folder if isinstance(folder, Storage) else Storage(folder)
    for name, content in reversed(to_files(predictor).items()):
        storage.write_bytes(name, content)


def load(folder: Storage | Path | str) -> Predictor:
    """Reads the folder that `save` wrote.

    Raises:
        UserError: it holds no model, or one that can't be read.
    """
    storage = folder if isinstance(folder, Storage) else Storage(folder)
    return from_files(read_files(storage), where=storage.path())


def read_files(storage: Storage) -> dict[str, bytes]:
    """The contents of a saved model's files, to send to another process.

    Raises:
        UserError: there is no saved model, or one of version 0.1.0.
    """
    found = storage.names()
    check_present(found, storage.path())
    names = [name for name in found if name == FACTS or name.endswith(SUFFIX)]
    return {name: storage.read_bytes(name) for name in sorted(names, key=lambda n: n != FACTS)}

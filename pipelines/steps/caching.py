"""Stages: a folder per fingerprint of settings and inputs; finished ones are skipped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.storage import Storage

DONE = "done.json"

Facts = dict[str, Any]


@dataclass(frozen=True)
class StageResult:
    """A finished stage: where its files are and what it had to say."""

    name: str
    fingerprint: str
    storage: Storage
    facts: Facts
    seconds: float
    cached: bool


def plain(value: Any) -> Any:
    """Settings as JSON knows them: dataclasses become dicts, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


WITHOUT_EFFECT = frozenset(
    (
        *("cache_mb", "open_files", "loader_threads", "prefetch", "checkpoint_every", "window"),
        *("concurrent", "cpus_per_trial", "gpus_per_trial", "margin"),
    )
)
"""Settings that change how work is done, not what comes out of it."""


def lasting(value: Any) -> Any:
    """As `plain`, without the settings that have no effect on results."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.name not in WITHOUT_EFFECT]
        return {name: lasting(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(k): lasting(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [lasting(v) for v in value]
    return value


def fingerprint(*parts: Any) -> str:
    """Twelve hexadecimal digits that change when anything in `parts` does that matters."""
    text = json.dumps(lasting(list(parts)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def weights_stamp(weights: str | None) -> list[int] | None:
    """Changes when a file of weights does."""
    path = Path(weights or "").expanduser()
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None


def run_stage(root: Storage, name: str, key: Any, work: Callable[[Storage], Facts]) -> StageResult:
    """Runs `work` unless a stage of this name and key has been finished before.

    The work is handed its folder and may find there what an earlier, killed run left; the marker
    of success is written last.

    Args:
        key: everything the result depends on.
        work: returns the facts that later stages and the report need, as JSON.
    """
    mark = fingerprint(name, key)
    storage = root.join("stages", f"{name}-{mark}")
    if storage.exists(DONE):
        done = storage.read_json(DONE)
        return StageResult(name, mark, storage, done["facts"], done["seconds"], cached=True)
    begun = time.monotonic()
    facts = work(storage)
    seconds = time.monotonic() - begun
    storage.write_json(DONE, {"facts": facts, "seconds": seconds})
    return StageResult(name, mark, storage, facts, seconds, cached=False)

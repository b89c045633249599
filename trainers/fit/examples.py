"""What a task learns from: clips with an artifact (or an embedding) and their classes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One clip of one stream."""

    id: str
    """The video's id."""
    artifact: str
    """Path or URI of the safetensors file: an artifact, or for sequences an embedding."""
    targets: tuple[int, ...]
    """Its classes' numbers; single-label data have exactly one."""
    split: str
    """train, val or test."""

"""What a system is built for: the usable clips of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.storage import Storage
from pipelines.data import Manifest
from pipelines.steps.extract import ExtractedClip
from trainers.fit.examples import Example


@dataclass(frozen=True)
class Given:
    """The data set after extraction, and the seed.

    Args:
        clips: usable clips, in the manifest's order.
        artifacts: folder of their artifacts.
        extraction: fingerprint of the settings that the artifacts were made with.
        seed: of everything random.
    """

    manifest: Manifest
    clips: tuple[ExtractedClip, ...]
    artifacts: Storage
    extraction: str
    seed: int

    @property
    def n_classes(self) -> int:
        return len(self.manifest.classes)

    @property
    def multi_label(self) -> bool:
        return self.manifest.multi_label

    def with_track(self, track: str) -> tuple[ExtractedClip, ...]:
        """The clips that have a track."""
        return tuple(clip for clip in self.clips if track in clip.tracks)

    def learned(self, track: str) -> dict[str, Any]:
        """What a fit uses of the data, for its fingerprint; test clips are no part of it."""
        used = [clip for clip in self.with_track(track) if clip.video.split != "test"]
        return {
            "extraction": self.extraction,
            "classes": list(self.manifest.classes),
            "multi_label": self.multi_label,
            "clips": [[c.artifact, list(c.video.labels), c.video.split] for c in used],
            "seed": self.seed,
        }

    def table(self, *, test: bool) -> dict[str, Any]:
        """What a step uses that works on the clips of all streams, for its fingerprint.

        Args:
            test: whether it uses test clips; what is fitted does not.
        """
        used = [clip for clip in self.clips if test or clip.video.split != "test"]
        return {
            "classes": list(self.manifest.classes),
            "multi_label": self.multi_label,
            "clips": [
                [c.artifact, list(c.video.labels), c.video.split, c.video.group] for c in used
            ],
            "seed": self.seed,
        }

    def examples(self, clips: Sequence[ExtractedClip], place: Storage) -> tuple[Example, ...]:
        """What a task learns from; test clips are left out, so that no fit can see one.

        Args:
            place: folder of the clips' artifacts, or of their embeddings.
        """
        return tuple(
            Example(
                id=clip.video.id,
                artifact=place.path(clip.artifact),
                targets=self.manifest.targets(clip.video),
                split=clip.video.split,
            )
            for clip in clips
            if clip.video.split != "test"
        )

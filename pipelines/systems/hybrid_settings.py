"""What can be set about Hybrid. Light: reading a command line imports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pipelines.systems.hybrid_streams import default_streams
from trainers.settings import FusionSettings, RefinementSettings
from trainers.streams.settings import StreamSettings
from tuning.settings import SearchSettings


@dataclass(frozen=True)
class HybridSettings:
    """Streams with their sequence models, the regularized fusion and what follows it.

    The defaults are the published values (Jiang et al.).
    """

    main_options: ClassVar[tuple[str, ...]] = (
        "search.trials",
        "fusion.lambda2",
        "fusion.lambda3",
        "refinement.method",
    )
    """What `--help` shows of them."""

    streams: Mapping[str, StreamSettings] = field(default_factory=default_streams)
    """Streams by name."""
    fusion: FusionSettings = FusionSettings()
    """Regularized fusion network."""
    search: SearchSettings = SearchSettings()
    """Search for the fusion network's lambda2 and lambda3."""
    refinement: RefinementSettings = RefinementSettings()
    """Refinement of the ensemble's scores."""

    @property
    def searched(self) -> bool:
        """Whether the fusion's lambda2 and lambda3 are searched."""
        return self.search.trials > 0 and self.fusion.model == "regularized"

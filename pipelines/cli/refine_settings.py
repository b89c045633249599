"""Settings of pipelines/refine.py. Light: reading a command line imports it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.errors import UserError, nearest
from trainers.settings import REFINEMENTS

AUTO = "auto"
GIVEN = (AUTO, "logits", "probabilities")


@dataclass(frozen=True)
class RefineSettings:
    """How the clips are grouped, and what is written."""

    groups: str | None = None
    """Array of the file with each clip's group, or a pattern with one (group) for video_ids;
    default: the array groups, else gNN of UCF-101's names, else every clip by itself."""
    folds: int | None = None
    """Folds of whole groups; default: one per group up to ten groups, else ten."""
    method: str = AUTO
    """What is written: auto (what is best by cross-validation, none if nothing is beyond noise),
    none (the plain mean), confusion (contextual refinement as printed), shrunk (the same, shrunk
    toward the identity as far as an inner cross-validation says), dasd or learned."""
    given: str = AUTO
    """What the scores are: logits, probabilities, or auto (what they look like)."""
    output: str = "refinement.safetensors"
    """File for the fitted refinement; the page goes beside it, ending in .html."""

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < 2:
            raise UserError(f"--folds must be at least 2, not {self.folds}")
        if self.method not in (AUTO, *REFINEMENTS):
            known = ", ".join((AUTO, *REFINEMENTS))
            raise UserError(
                f"--method takes one of {known}, not {self.method!r}"
                f"{nearest(self.method, (AUTO, *REFINEMENTS))}"
            )
        if self.given not in GIVEN:
            known = ", ".join(GIVEN)
            near = nearest(self.given, GIVEN)
            raise UserError(f"--given takes one of {known}, not {self.given!r}{near}")
        if Path(self.output).suffix != ".safetensors":
            raise UserError(f"--output {self.output}: its ending must be .safetensors")

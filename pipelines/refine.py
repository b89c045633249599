#!/usr/bin/env python3
"""Job: combines and refines the scores of any systems, and evaluates this by cross-validation.

    pipelines/refine.py SCORES.npz [--groups NAME] [--folds K] [--method NAME] [--given WHAT]
                        [--output refinement.safetensors]

SCORES.npz holds an array `<stream>_scores` (clips x classes; logits or probabilities) per stream
and `labels`; if you have them also `class_names`, `video_ids` (UCF-101's groups are read from
these), `groups`, and `<stream>_present` where clips lack a stream. Every figure is of clips whose
group was held out of every fit. The chosen refinement is fitted on all clips and written as a file
for pipelines/predict.py --refinement; a page beside it shows what was found.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start

    start("pipelines.refine", "pipelines.cli.command_line:read_refinement", __doc__)

from pipelines.cli.command_line import AskedRefinement
from pipelines.steps.console import Console
from pipelines.steps.refine import refine_scores


def main(asked: AskedRefinement) -> None:
    """Runs this job."""
    refine_scores(asked.path, asked.settings, Console())

#!/usr/bin/env python3
"""Job: makes the challenger the champion if it is better on the same test videos.

    pipelines/promote.py [--version challenger] [--registry.margin 0.01] [--force] [--dry-run]

Compares the measures that were recorded when the versions were registered. A champion that was
tested on other videos is scored on the challenger's first.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start

    start("pipelines.promote", "pipelines.cli.command_line:read_promotion", __doc__)

from pipelines.cli.model_settings import PromoteSettings
from pipelines.steps.console import Console
from pipelines.tracking.promotion import promote


def main(settings: PromoteSettings) -> None:
    """Runs this job."""
    promote(settings, Console())

#!/usr/bin/env python3
"""Job: compares the hybrid with every method of its paper (Tables I to III) on your own clips.

    pipelines/compare.py --storage URI [--methods NAME,...] [--folds K | --splits 1,2,3] [settings]

Takes the same settings as `full.py`, uses what that left in the storage, and runs what is missing.
--methods names rows (such as svm_mkl,rdnn) or tables (table1, table2, table3); default: all.
--splits runs a data set's official splits, --folds cuts all clips into K folds by group: networks
are trained for each of them, so that no clip is scored by a network that has seen it.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipelines.cli.launch import start

    start("pipelines.compare", "pipelines.cli.compare_options:read_comparison", __doc__)

from pipelines.cli.compare_options import AskedComparison
from pipelines.steps.compare import compare


def main(asked: AskedComparison) -> None:
    """Runs this job."""
    compare(asked)

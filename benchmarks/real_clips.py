#!/usr/bin/env python3
"""The whole job on real clips, fold by fold, split by person or source.

    python benchmarks/real_clips.py SET --data FOLDER [--storage FOLDER] [any setting]

SET is weizmann4, weizmann_av8_synthetic, esc10 or fight_surv; FOLDER holds a folder of that name.
Settings are those of benchmarks/configs/SET.yaml. Every fold runs `pipelines/full.py` as a user
would. Figures: one JSON object on the last line, each method's accuracy over all folds' test clips.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

FOLDS = {
    "weizmann4": [f"_g{n:02d}_" for n in range(1, 8)],
    "weizmann_av8_synthetic": [f"_g{n:02d}_" for n in range(1, 8)],
    "esc10": [f"/{n}-" for n in range(1, 5)],
    "fight_surv": list(range(1, 6)),
}
"""What is tested in each fold: a pattern of ids (a person, a fold by name), or a fold by group."""


def fold_arguments(name: str, fold: str | int) -> list[str]:
    if isinstance(fold, int):
        return ["--splits.folds", str(len(FOLDS[name])), "--splits.fold", str(fold)]
    return ["--splits.test_pattern", fold]


def run_fold(name: str, fold: str | int, data: Path, storage: Path, more: list[str]) -> Any:
    """The report of one fold; its log goes to the terminal."""
    report = storage / f"{name}-{str(fold).strip('_/-')}.json"
    command = [
        *(sys.executable, str(ROOT / "pipelines" / "full.py")),
        *("--config", str(ROOT / "benchmarks" / "configs" / f"{name}.yaml")),
        *("--data", str(data / name), "--storage", str(storage), "--report", str(report)),
        *fold_arguments(name, fold),
        *more,
    ]
    subprocess.run(command, check=True)
    return json.loads(report.read_text())


def pool(reports: list[Any]) -> dict[str, dict[str, float]]:
    """Method -> accuracy over all folds' clips, the folds' mean, the lowest, and clips."""
    methods = defaultdict(list)
    for report in reports:
        for name, figures in report["methods"].items():
            if figures["accuracy"] is not None:
                methods[name].append((figures["accuracy"], figures["n"]))
    return {
        name: {
            "accuracy": sum(a * n for a, n in pairs) / sum(n for _, n in pairs),
            "mean_over_folds": sum(a for a, _ in pairs) / len(pairs),
            "lowest_fold": min(a for a, _ in pairs),
            "n": sum(n for _, n in pairs),
        }
        for name, pairs in methods.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=FOLDS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--storage", type=Path, default=ROOT / "storage" / "real")
    chosen, more = parser.parse_known_args()
    chosen.storage.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    reports = [
        run_fold(chosen.set, fold, chosen.data, chosen.storage.resolve(), more)
        for fold in FOLDS[chosen.set]
    ]
    figures = {
        "set": chosen.set,
        "folds": len(reports),
        "seconds": time.monotonic() - begun,
        "rejected": max(report["rejected"] for report in reports),
        "methods": pool(reports),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

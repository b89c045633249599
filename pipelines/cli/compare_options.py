"""What compare.py is asked beyond the job's settings. Light: imported before anything slow."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from actors.errors import UserError, nearest
from pipelines.cli.command_line import read_data
from pipelines.cli.settings import Settings, parse_settings
from pipelines.data import NUMBERED, Manifest
from pipelines.systems import comparison_rows

OPTIONS = {
    "methods": "Rows (svm_mkl,rdnn) or tables (table1,table2,table3) to compare; default: all.",
    "folds": "Cut all clips into this many folds by group, and test on each in turn.",
    "splits": "Official splits to run, such as 1,2,3 (formats ucf101 and hmdb51).",
}


@dataclass(frozen=True)
class ComparisonOptions:
    """What `compare.py` asks beyond the job's settings."""

    methods: tuple[str, ...] = ()
    folds: int | None = None
    splits: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One split or fold.

    Args:
        manifest: the user's videos, so split; None: the demo set, which is yet to be made.
    """

    name: str
    settings: Settings
    manifest: Manifest | None


@dataclass(frozen=True)
class AskedComparison:
    """A command line that can be done."""

    settings: Settings
    choice: ComparisonOptions
    plans: tuple[Plan, ...]


def read_comparison(description: str, arguments: Sequence[str] | None = None) -> AskedComparison:
    """Reads the command line, and the list of videos that it names, split in every way asked for:
    a later split that can't be had is not to be found after an earlier one is trained.

    Raises:
        UserError: options, settings or data that can't be used.
    """
    choice, rest = parse_choice(sys.argv[1:] if arguments is None else arguments)
    settings = parse_settings(description, rest, own=OPTIONS)
    check_methods(settings, choice.methods)
    plans = [Plan(name, one, read_data(one)) for name, one in variants(settings, choice)]
    return AskedComparison(settings, choice, tuple(plans))


def check_methods(settings: Settings, methods: Sequence[str]) -> None:
    """Refuses names that no row of the chosen streams has, and no table.

    Raises:
        UserError: a name that no row or table has, or that two rows have.
    """
    known = comparison_rows(settings.system)
    names = known.row_names(known.Members.of(settings.system_settings))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two rows of the tables would be named {twice[0]!r}; the streams are "
            f"{', '.join(settings.streams)}: call the one that {twice[0]!r} begins with otherwise"
        )
    tables: tuple[str, ...] = known.TABLES.names
    for method in methods:
        if method not in names and method not in tables:
            raise UserError(
                f"there is no method {method!r}; methods: {', '.join(names)}"
                f"{nearest(method, [*names, *tables])}"
            )


def parse_choice(arguments: Sequence[str]) -> tuple[ComparisonOptions, list[str]]:
    """The options of this job alone, and the rest, which are the settings'.

    Raises:
        UserError: numbers that are none, or both ways of cutting the clips.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in OPTIONS:
        parser.add_argument(f"--{name}")
    try:
        given, rest = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name} needs a value") from error
    if given.folds and given.splits:
        raise UserError("--folds and --splits both say how the clips are cut; give one of them")
    for name, pattern, example in (("folds", r"\d+", "5"), ("splits", r"\d+(,\d+)*", "1,2,3")):
        value = getattr(given, name)
        if value is not None and not re.fullmatch(pattern, value):
            raise UserError(f"--{name} {value!r} is not understood; give for instance {example}")
    numbers = given.splits.split(",") if given.splits else []
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--splits {given.splits} names a split twice")
    names = [word.strip() for word in (given.methods or "").split(",")]
    return (
        ComparisonOptions(
            tuple(name for name in names if name),
            int(given.folds) if given.folds else None,
            tuple(int(n) for n in numbers),
        ),
        rest,
    )


def variants(settings: Settings, choice: ComparisonOptions) -> list[tuple[str, Settings]]:
    """Name and settings of every split or fold; of the one split as it is, if none is asked for.

    Raises:
        UserError: folds or splits that can't be had, or not honestly.
    """
    own = settings.splits
    if choice.folds is None and not choice.splits:
        return [("as given", settings)]
    if own.folds is not None or own.test_pattern is not None:
        raise UserError(
            "--splits.folds and --splits.test_pattern choose one test split; leave them out where "
            "--folds or --splits is given"
        )
    if choice.folds is not None:
        if choice.folds < 2:
            raise UserError(f"--folds is {choice.folds}; it takes at least 2")
        cuts = [
            (f"fold {n}", replace(own, folds=choice.folds, fold=n))
            for n in range(1, choice.folds + 1)
        ]
    else:
        if settings.format not in NUMBERED or settings.data is None:
            raise UserError(
                f"the format {settings.format!r} has no numbered splits (only "
                f"{' and '.join(NUMBERED)} have); --folds K cuts the clips by group"
            )
        cuts = [(f"split {n}", replace(own, number=n)) for n in choice.splits]
    return [(name, replace(settings, splits=cut)) for name, cut in cuts]

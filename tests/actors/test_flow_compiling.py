"""The loops are compiled once, and kept where every process and job finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from flow_cases import shifted_pair
from numba.core.caching import FunctionCache

from actors.flow import TVL1, compile_kernels, flow
from actors.flow.compiling import compiled
from actors.flow.loops import fields, iterations, pyramid, scale, warp
from actors.flow.settings import SCHEDULES


def test_the_package_imports_no_compiler():
    code = "import sys, actors.flow.engine; print('numba' in sys.modules)"
    assert start(code).communicate()[0] == "False\n"


def test_compiling_leaves_nothing_to_compile():
    compile_kernels()
    loops = pyramid.build, pyramid.enlarge, warp.pack, scale.solve_scale
    assert [len(loop.signatures) for loop in loops] == [1] * 4
    flow(shifted_pair(), TVL1(median_filtering=5))
    flow(shifted_pair()[:, ::2, ::2], SCHEDULES["fast"])
    assert [len(loop.signatures) for loop in loops] == [1] * 4


COMPILE_ONE = """
import numpy as np
from actors.flow.loops import iterations
print(iterations.next_block(4.0, 8.0, 1.0, 30))
"""


def start(code, folder=Path(__file__).parents[2], **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "XDG_CACHE_HOME"])
def test_processes_that_start_at_once_share_a_cache_outside_the_package(
    tmp_path, monkeypatch, variable
):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    package = Path(iterations.__file__).parent
    before = sorted(package.rglob("*.nb?"))
    processes = [start(COMPILE_ONE, **{variable: str(tmp_path)}) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["2\n"] * 2
    assert len(list(tmp_path.rglob("*next_block*.nbi"))) == 1
    assert sorted(package.rglob("*.nb?")) == before


COUNT = (
    COMPILE_ONE
    + """
stats = iterations.next_block.stats
print(iterations.__file__, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
)


@pytest.mark.slow
def test_a_copy_elsewhere_finds_what_was_compiled_and_a_change_compiles_anew(tmp_path, monkeypatch):
    """As the jobs of `ray job submit --working-dir .` do, each unpacked at a path of its own."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    package = Path(iterations.__file__).parents[2]
    found = {}
    for place, changed in (
        ("a", None), ("b", None), ("c", "loops/iterations.py"), ("d", "compiling.py"),
        ("e", "loops/planes.py"),
    ):  # fmt: skip
        copy = tmp_path / place / "actors"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if changed:
            with open(copy / "flow" / changed, "a") as file:
                file.write("# changed\n")
        run = start(COUNT, copy.parent, XDG_CACHE_HOME=str(tmp_path / "cache"))
        result, path, hits, misses = run.communicate()[0].split()
        assert (result, path) == ("2", str(copy / "flow" / "loops" / "iterations.py"))
        found[place] = int(hits), int(misses)
    assert found == {"a": (0, 1), "b": (1, 0), "c": (0, 1), "d": (0, 1), "e": (0, 1)}


def test_other_users_of_numba_keep_their_cache():
    def plain(x):
        return x

    ours, theirs = compiled()(plain), numba.njit(cache=True)(plain)
    assert type(theirs._cache) is FunctionCache
    assert ours._cache.cache_path != theirs._cache.cache_path


def test_every_compiled_loop_has_its_cache_outside_the_package():
    from trainers.fusion import kernels as chi2

    for loop in (scale.solve_scale, fields.quantize_into, chi2._distances):
        folder = Path(loop._cache.cache_path)
        assert Path(loop.py_func.__code__.co_filename).parent not in (folder, *folder.parents)

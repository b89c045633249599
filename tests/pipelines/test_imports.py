"""Importing a module only defines things: the process stays as it was."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "trainers", "tuning", "pipelines")

PROBE = """
import importlib, importlib.util, json, logging, os, signal, subprocess, sys, threading, warnings

theirs, ours = json.loads(sys.stdin.read())
for name in theirs:  # what other libraries do when they are imported is theirs to answer for
    try:
        importlib.import_module(name)
    except ImportError:
        pass

def state():
    known = logging.root.manager.loggerDict.items()
    loggers = {n: one.level for n, one in known if hasattr(one, "level")}
    return {
        "environment": dict(os.environ),
        "path": list(sys.path),
        "levels": {"root": logging.root.level, **{n: v for n, v in loggers.items() if v}},
        "handlers": [repr(h) for h in logging.root.handlers],
        "warnings": len(warnings.filters),
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)],
        "threads": threading.active_count(),
        "torch threads": sys.modules["torch"].get_num_threads(),
        "random": str(sys.modules["torch"].random.initial_seed()),
        "folder": os.getcwd(),
    }

def refused(*arguments, **options):
    raise SystemExit("an import started or replaced a process")

found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "ray" else found(name, *rest)
os.execv = os.execve = os.fork = subprocess.Popen.__init__ = refused
before, wrong = state(), {}
for name in ours:
    importlib.import_module(name)
    after = state()
    changed = {k: [before[k], after[k]] for k in before if before[k] != after[k]}
    if changed:
        wrong[name] = changed
        before = after
print(json.dumps(wrong))
"""
"""Imports the modules that it is given, and prints what each changed."""


def modules() -> dict[str, Path]:
    """All modules of the four packages -> their files."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    named = {name.removesuffix(".__init__"): file for name, file in named.items()}
    return {name: file for name, file in named.items() if not name.endswith("__main__")}


def foreign(file: Path) -> set[str]:
    """Modules of other libraries that a file imports, at its top or inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {n for n in names if n.partition(".")[0] not in (*PACKAGES, "__future__")}


@pytest.mark.slow
def test_importing_any_module_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    ours = modules()
    theirs = sorted({"torch"}.union(*(foreign(file) for file in ours.values())))
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([theirs, list(ours)]),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}

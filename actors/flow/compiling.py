"""How the flow's loops are compiled: vectorized, and kept on disk once per kind of machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.compiler import Compiler

# Numba fills this module with its settings at run time.
config: Any = numba.config


class _Disjoint(Compiler):
    """Numba's compiler, told that a function's array arguments never overlap.

    LLVM vectorizes a loop over ten arrays only if it may assume so: the run-time checks in place
    of it exceed LLVM's threshold, which could otherwise only be raised for the whole process.
    """

    def define_pipelines(self) -> list[Any]:
        self.state.flags.noalias = True
        return super().define_pipelines()


class _DisjointAcross(_Disjoint):
    """As above, and also vectorizes neighboring statements, which Numba leaves switched off."""

    def compile_extra(self, func: Any) -> Any:
        # Numba reads this at the end of each compilation, all of which it does under one lock.
        usual = config.SLP_VECTORIZE
        config.SLP_VECTORIZE = 1
        try:
            return super().compile_extra(func)
        finally:
            config.SLP_VECTORIZE = usual


def cache_folder() -> Path:
    """Where compiled loops are kept unless NUMBA_CACHE_DIR says otherwise.

    In the user's cache folder, apart for each processor and Numba: Numba numbers the files of a
    folder, so two kinds of machine that share a home and compile at once could swap theirs. What an
    older version has left there may be deleted at any time.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache"
    processor = binding.get_host_cpu_name() + binding.get_host_cpu_features().flatten()
    kind = hashlib.sha256(f"{numba.__version__} {processor}".encode()).hexdigest()[:16]
    return Path(base) / "multiclue" / "numba" / kind


class _ContentLocator(_CacheLocator):
    """Tells Numba to keep a function's machine code by its source's content, not by its path.

    A job that Ray unpacks in a folder of its own thus finds what an earlier one has compiled. The
    content is that of all modules beside the function's, since it may call them. A changed one has
    a folder of its own, so that jobs of two versions don't replace each other's.
    """

    def __init__(self, line: int, content: str, name: str) -> None:
        self._line, self._content = line, content
        self._folder = Path(config.CACHE_DIR or cache_folder()) / f"{name}_{content[:16]}"

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._content

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _ContentLocator | None:
        """None where there is no such source or the folder can't be written: Numba's own follow."""
        source = Path(py_file)
        if not source.is_file():
            return None
        # How it is compiled is this module's matter.
        sources = [*sorted(source.parent.glob("*.py")), Path(__file__)]
        content = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        self = cls(py_func.__code__.co_firstlineno, content, source.stem)
        try:
            self.ensure_cache_path()
        except OSError:
            return None
        return self


class _ContentCacheImpl(CompileResultCacheImpl):
    _locator_classes: list[Any] = [_ContentLocator, *CompileResultCacheImpl._locator_classes]


class _ContentCache(FunctionCache):
    _impl_class = _ContentCacheImpl


def compiled(
    *, disjoint: bool = False, across: bool = False, inline: bool = False, exact: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiles a function on its first call, or loads it from the cache on disk.

    The machine code runs without the interpreter's lock. Many processes may start at once: Numba
    replaces whole files only. What a function calls must stand in its own folder, for a change
    elsewhere goes unnoticed.

    Args:
        disjoint: the function's array arguments never overlap.
        across: vectorize like statements that follow each other, not only loops; disjoint too.
        inline: put into its callers, whatever its size.
        exact: keep the order and rounding of floating-point operations as written.
    """
    pipeline = _DisjointAcross if across else _Disjoint if disjoint else Compiler

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        dispatcher: Any = numba.njit(
            fastmath=not exact,
            nogil=True,
            error_model="numpy",
            pipeline_class=pipeline,
            forceinline=inline,
        )(function)
        if hasattr(dispatcher, "enable_caching"):  # not where NUMBA_DISABLE_JIT is set
            # What `cache=True` does, but with a cache of our own; other users of Numba keep theirs.
            dispatcher._cache = _ContentCache(function)
        return dispatcher

    return decorate

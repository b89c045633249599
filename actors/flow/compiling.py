"""Compilation of the flow's loops by Numba: vectorization, and a cache per kind of processor."""

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
    """Numba's compiler under the assumption that a function's array arguments never overlap.

    Without the assumption LLVM does not vectorize a loop over ten arrays: the number of run-time
    checks exceeds its threshold, which can only be raised for the whole process.
    """

    def define_pipelines(self) -> list[Any]:
        self.state.flags.noalias = True
        return super().define_pipelines()


class _DisjointAcross(_Disjoint):
    """As `_Disjoint`, with the vectorization of neighboring statements, which Numba disables."""

    def compile_extra(self, func: Any) -> Any:
        # Numba reads this setting at the end of each compilation; one lock serializes compilations.
        before = config.SLP_VECTORIZE
        config.SLP_VECTORIZE = 1
        try:
            return super().compile_extra(func)
        finally:
            config.SLP_VECTORIZE = before


def cache_folder() -> Path:
    """Returns the folder of compiled loops; the variable NUMBA_CACHE_DIR overrides it.

    The folder is in the user's cache folder, one for each kind of processor and version of Numba.
    Numba numbers the files of a folder, so machines of different kinds that share a home must not
    compile into the same one. The folders of older versions may be deleted at any time.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache"
    processor = binding.get_host_cpu_name() + binding.get_host_cpu_features().flatten()
    kind = hashlib.sha256(f"{numba.__version__} {processor}".encode()).hexdigest()[:16]
    return Path(base) / "multiclue" / "numba" / kind


class _ContentLocator(_CacheLocator):
    """Locates a function's machine code by the content of its source instead of its path.

    A job that Ray unpacks into a new folder finds what an earlier job compiled. The content covers
    all modules in the function's folder, because it may call them. Each content has a folder of its
    own, so jobs of different versions do not overwrite each other's files.
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
        """Returns None without a source file or a writable folder; Numba then tries its own."""
        source = Path(py_file)
        if not source.is_file():
            return None
        # This module determines how the functions are compiled.
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
    """Decorator that compiles a function at its first call, or loads it from the cache on disk.

    The machine code runs without the interpreter's lock. Several processes may compile at the same
    time: Numba replaces whole files. A compiled function may only call compiled functions of its
    own folder, because a change elsewhere does not invalidate the cache.

    Args:
        disjoint: the function's array arguments never overlap.
        across: vectorize similar neighboring statements, not only loops; implies ``disjoint``.
        inline: inline the function into its callers, whatever its size.
        exact: keep the order and the rounding of floating-point operations as written.
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
            # Like `cache=True` with this module's cache; other users of Numba are not affected.
            dispatcher._cache = _ContentCache(function)
        return dispatcher

    return decorate

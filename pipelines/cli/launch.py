"""Starts a job: finds the right Python, turns errors and signals into exit codes and words."""

from __future__ import annotations

import atexit
import errno
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from actors.errors import UserError
from pipelines.cli.environment import use_mlflow_quietly, use_ray_quietly

ROOT = Path(__file__).resolve().parents[2]

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_TOO_MANY_REJECTED = 3
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 143


class Stopped(SystemExit):
    """SIGTERM came, for instance from `ray job stop`."""


class TooManyRejected(UserError):
    """More videos were rejected than `max_rejected_share` allows."""


def use_project_environment() -> None:
    """Goes on in the checkout's own environment when this Python has no Ray.

    `ray job submit pipelines/full.py` runs the file with the first `python3` on the cluster's PATH,
    which need not be the one that `make install` filled.
    """
    python = ROOT / ".venv" / "bin" / "python"
    if importlib.util.find_spec("ray") or not python.exists():
        return
    if Path(sys.prefix).resolve() == python.parent.parent.resolve():
        return
    os.execv(python, [str(python), *sys.argv])


def prepare() -> None:
    """Makes this process a job's: the right Python, quiet libraries, the user's own modules.

    Only a script may call it, and before it imports anything that is slow: it may replace the
    process, and changes the environment. The current folder goes to the end of the import path,
    so that ``--system package.module:function`` finds what stands there.
    """
    use_project_environment()
    use_ray_quietly()
    use_mlflow_quietly()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def start(job: str, read: str, description: str | None) -> None:
    """Reads the command line, then imports the job and runs its `main` with what was read.

    So a question (`--help`) or a mistake is answered without waiting for PyTorch, Ray and MLflow,
    whose imports take seconds. Ends the process, like `main_guard`.

    Args:
        job: module of the job.
        read: ``module:function`` that gets the description and returns what the job is asked to
            do; imports nothing that is slow.
        description: of the job, for ``--help``.
    """
    prepare()

    def run() -> int | None:
        module, _, function = read.partition(":")
        asked = getattr(importlib.import_module(module), function)(description or "")
        return importlib.import_module(job).main(asked)

    # Registered before anything else is imported, so that it comes after all other exit functions.
    code = [1]
    atexit.register(lambda: _leave(code[0]))
    try:
        main_guard(run)
    except SystemExit as end:
        code[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def main_guard(run: Callable[[], int | None]) -> None:
    """Runs a job and ends the process with its exit code.

    0 done; 2 a mistake of the user's, told on stderr without a traceback; 3 too many videos
    rejected; 130 interrupted; 143 stopped (`ray job stop`). Anything else is a defect and keeps
    its traceback.
    """
    try:
        with stop_on_sigterm():
            code = run() or EXIT_OK
    except TooManyRejected as error:
        code = _say(error, EXIT_TOO_MANY_REJECTED)
    except UserError as error:
        code = _say(error, EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _leave(_say("interrupted; the same command goes on from here", EXIT_INTERRUPTED))
    except Stopped:
        _leave(_say("stopped; the same command goes on from here", EXIT_STOPPED))
    except Exception as error:  # noqa: BLE001  raised again unless the user can mend its cause
        code = _explain(error)
    sys.stdout.flush()
    sys.exit(code)


def _leave(code: int) -> None:
    """Ends at once: threads that are in the middle of a fit would keep the process, and to take
    apart one that holds PyTorch, Ray and MLflow takes seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _explain(error: Exception) -> int:
    """Exit code of what a worker met that the user can mend; anything else is raised again."""
    for cause in causes(error):
        if isinstance(cause, UserError):
            return _say(cause, EXIT_USER_ERROR)
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            where = cause.filename or "the storage"
            return _say(f"no space left for {where}; free some, then run again", EXIT_USER_ERROR)
    raise error


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that led to it, through the wrappers of Ray and its libraries."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (getattr(one, "cause", None), one.__cause__, one.__context__)
        waiting += [e for e in inner if isinstance(e, BaseException)]
        failures = getattr(one, "worker_failures", None)
        waiting += list(failures.values()) if isinstance(failures, dict) else []


def _say(message: object, code: int) -> int:
    print(f"multiclue: {message}", file=sys.stderr)
    return code


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM unwind the stack, so that runs are closed and Ray is left tidily."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(EXIT_STOPPED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

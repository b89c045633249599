"""The Ray that a job joins or starts."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from actors.errors import UserError
from pipelines.cli.environment import use_ray_quietly

RAY_IMPORTS = threading.RLock()
"""Held while a step imports Ray's libraries. They import each other in circles, and steps run in
threads, of which one could find a module that another one has imported by half only."""


@contextmanager
def ray_session() -> Iterator[None]:
    """Joins the Ray that RAY_ADDRESS names (a submitted job's is set); else starts its own.

    Without that name Ray would also join a cluster that another program started for itself, and
    die with it.

    Raises:
        UserError: the cluster does not answer.
    """
    use_ray_quietly()
    with RAY_IMPORTS:
        import ray

    named = os.environ.get("RAY_ADDRESS")
    if not named:
        _name_own_ray()
    try:
        with _muted_stderr():
            ray.init(
                address=named or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                ignore_reinit_error=True,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if not named:
            _forget_own_ray()
        raise UserError(
            f"Ray at {named or 'this machine'} can't be joined: {error}; "
            "see `ray status`, or unset RAY_ADDRESS to start one here"
        ) from error
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        # The process is about to end, and what it started ends with it. Closing Ray in the middle
        # of its own work instead may abort the process.
        raise
    except BaseException:
        ray.shutdown()
        raise
    else:
        ray.shutdown()
    finally:
        if not named:
            _forget_own_ray()


def _name_own_ray() -> None:
    """Tells the processes of the Ray about to be started which Ray is theirs.

    Ray Train's guard of a fit asks the state API whether the fit is alive. Unnamed, that API takes
    whatever Ray was last started on this machine by `ray start`, running or not; it then waits 12 s
    for an answer, or hears that there is no such fit and takes its workers away.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"


def _forget_own_ray() -> None:
    for name in ("RAY_GCS_SERVER_PORT", "RAY_ADDRESS"):
        os.environ.pop(name, None)


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Keeps the lines that Ray's C++ core prints while it starts; failures come as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

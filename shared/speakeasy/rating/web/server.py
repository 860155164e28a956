"""Serving a study until somebody stops it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from speakeasy.errors import RunError, UsageError
from speakeasy.rating.store import open_store
from speakeasy.rating.study import Study
from speakeasy.rating.web.app import make_app


def serve(
    study: Study,
    *,
    host: str,
    port: int,
    hosts: Collection[str],
    https: bool,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM.

    No access log and no server header: nobody's address is printed or stored.

    Args:
        ready: called with the address once the server listens.

    Raises:
        UsageError: the address cannot be had.
        RunError: the study is served already.
    """
    with _alone(study):
        store = open_store(study)
        app = make_app(study, store, hosts=hosts, https=https)
        listening = _listen(host, port)
        ready(f"http://{host}:{listening.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            access_log=False,
            server_header=False,
            log_level="warning",
            lifespan="off",
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=32 * 1024,
        )
        _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends cleanly at a signal; uvicorn would raise it again afterwards."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self.should_exit = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise UsageError(f"--port {port}: {error}; choose another --port or --host") from error
    return listening


@contextmanager
def _alone(study: Study) -> Iterator[None]:
    """One server a study: limits and writes are this process's."""
    descriptor = os.open(study.path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise RunError(f"{study.path}: is being served already; stop that server first") from None
    try:
        yield
    finally:
        os.close(descriptor)

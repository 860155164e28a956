"""Notices at once when another process of a run has gone.

A framework may wait long, or for ever, for a process that was killed. So every process keeps a TCP
connection to process 0, over which nothing is said but farewells. A killed process's end is closed
by its system; keep-alive finds a machine that has gone. Then every process that is left ends, and
one of them says why. What was saved is whole: files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from speakeasy.errors import SaidElsewhereError, SpeakeasyError, first_line
from speakeasy.training.group import Group, barrier, named, processes_here, shared

CONNECT_S = 5.0
"""How long an address of process 0 is tried."""
LEAVE_S = 10.0
"""How long the others wait for process 0 to end first: a launcher may end all when one ends."""
_WELCOME, _BYE, _FAILED, _END = b"welcome", b"bye", b"failed ", b"end"


class Lifeline:
    """The connections of one process, watched by a thread of its own.

    Attributes:
        advice: says how the run can go on, as the end of a sentence; the run sets it once it has a
            directory.
    """

    def __init__(self, group: Group, fail: Callable[[str], None]) -> None:
        self.advice: Callable[[], str] = lambda: "start it again"
        self._group, self._fail = group, fail
        self._others: dict[int, socket.socket] = {}
        self._over = False
        self._watch: threading.Thread | None = None

    def start(self) -> None:
        """Connect all processes to process 0. All of them call this."""
        here = processes_here(self._group) == self._group.size
        listener = None
        offer: tuple[list[str], int, str] = [], 0, ""
        if self._group.rank == 0:
            listener = socket.create_server(("127.0.0.1" if here else "", 0))
            port = listener.getsockname()[1]
            offer = ["127.0.0.1"] if here else _addresses(), port, secrets.token_hex(16)
        addresses, port, token = shared(self._group, offer)
        if listener is not None:
            self._watch = threading.Thread(target=self._lead, args=(listener, token), daemon=True)
        else:
            connection = _reach(addresses, port)
            if connection is None:
                self._warn(f"cannot reach process 0 at port {port} of {', '.join(addresses)}")
                barrier(self._group)
                return
            _keep_alive(connection)
            connection.sendall(f"{token} {self._group.rank}\n".encode())
            _receive(connection)  # the welcome: process 0 watches from here on
            self._others[0] = connection
            self._watch = threading.Thread(target=self._follow, args=(connection,), daemon=True)
        self._watch.start()
        barrier(self._group)

    def close(self) -> None:
        """Say farewell: what is closed from now on is no death. Process 0 ends first."""
        self._over = True
        self._tell(_BYE)
        if self._group.rank and self._watch is not None:
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)
            self._watch.join(LEAVE_S)

    def failed(self, message: str) -> bool:
        """Have all processes end, for this one cannot go on; False if that cannot be told.

        Args:
            message: what process 0 says of it. Its own it says by itself.
        """
        self._over = True
        return self._tell(_FAILED + message.encode() if self._group.rank else _END)

    def _tell(self, message: bytes) -> bool:
        reached = False
        for connection in list(self._others.values()):
            with contextlib.suppress(OSError):
                connection.sendall(message + b"\n")
                reached = True
        return reached

    def _lead(self, listener: socket.socket, token: str) -> None:
        """Process 0's thread: take connections, and watch them."""
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    connection, _ = listener.accept()
                    rank = _greeting(connection, token)
                    if rank is None:
                        connection.close()
                        continue
                    self._others[rank] = connection
                    connection.sendall(_WELCOME + b"\n")
                    selector.register(connection, selectors.EVENT_READ, rank)
                    continue
                assert isinstance(key.fileobj, socket.socket)
                said = _receive(key.fileobj)
                if said.startswith(_FAILED):
                    what = said.removeprefix(_FAILED).decode(errors="replace").strip()
                    self._end(f"{named(key.data, self._group)}: {what}")
                selector.unregister(key.fileobj)
                del self._others[key.data]
                if not said and not self._over:
                    self._end(self._gone(key.data))

    def _follow(self, connection: socket.socket) -> None:
        """The thread of any other process: wait for what process 0 says."""
        said = _receive(connection)
        if said.startswith(_BYE):
            said = _receive(connection)  # nothing: process 0 ends
        if self._over:
            return
        # One of those that are left speaks.
        self._end(self._gone(0) if not said and self._group.rank == 1 else None)

    def _gone(self, rank: int) -> str:
        return f"{named(rank, self._group)} has ended, as if it was killed; the others end too"

    def _end(self, message: str | None) -> None:
        self._tell(_END)
        if message is not None:
            with contextlib.suppress(OSError, ValueError):
                self._fail(f"{message}; {self.advice()}")
                sys.stderr.flush()
                sys.stdout.flush()
        os._exit(1)  # the main thread may wait for ever

    def _warn(self, message: str) -> None:
        sys.stderr.write(
            f"warning: {named(self._group.rank, self._group)} {message}: should a process be "
            "lost, that may be noticed late\n"
        )


@contextmanager
def lifeline(group: Group, fail: Callable[[str], None]) -> Iterator[Lifeline]:
    """While the block runs, a process that ends early ends all others.

    Args:
        fail: shows an error.

    Raises:
        SaidElsewhereError: in place of an error that process 0 shows.
    """
    line = Lifeline(group, fail)
    if group.size == 1:
        yield line
        return
    line.start()
    try:
        yield line
    except BaseException as error:
        told = True
        if isinstance(error, SpeakeasyError) and error.common:
            line.close()
        else:
            told = line.failed(first_line(error))
        if told and group.rank:
            raise SaidElsewhereError(getattr(error, "exit_status", 1)) from error
        raise
    else:
        line.close()
        group.close()


def _addresses() -> list[str]:
    """This machine's addresses, of which another machine may reach some."""
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    return found or [socket.gethostname()]


def _reach(addresses: list[str], port: int) -> socket.socket | None:
    for address in addresses:
        with contextlib.suppress(OSError):
            connection = socket.create_connection((address, port), timeout=CONNECT_S)
            connection.settimeout(None)
            return connection
    return None


def _greeting(connection: socket.socket, token: str) -> int | None:
    """The rank of who connects; None if it is a stranger."""
    connection.settimeout(CONNECT_S)
    said = _receive(connection).decode(errors="replace").split()
    if len(said) != 2 or not secrets.compare_digest(said[0], token):
        return None
    connection.settimeout(None)
    _keep_alive(connection)
    return int(said[1])


def _receive(connection: socket.socket) -> bytes:
    """One line, or nothing where the other end has gone."""
    received = b""
    with contextlib.suppress(OSError):
        while not received.endswith(b"\n"):
            part = connection.recv(4096)
            if not part:
                return b""
            received += part
    return received


def _keep_alive(connection: socket.socket) -> None:
    """Have the system find out within half a minute that the other machine has gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPALIVE", 10),  # macOS's name of the same
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

"""Stopping well: the first Ctrl-C or SIGTERM is a request, a second one is obeyed at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from speakeasy.training.group import Group


class StopRequest:
    """Remembers which signal asked for a stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._parent = os.getppid()

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def agreed(self, group: Group) -> int | None:
        """The signal that any process of a group was asked to stop by; None if none was.

        All processes call this at the same points of their way. That the launcher of several has
        ended counts as SIGTERM: it can no longer pass one on.
        """
        if group.size == 1:
            return self.signal_number
        orphaned = signal.SIGTERM if os.getppid() != self._parent else 0
        mine = self.signal_number or orphaned
        return max(int(asked) for asked in group.gather(str(int(mine)).encode())) or None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """While the block runs, SIGINT and SIGTERM set the request that it yields.

    The handlers found are put back at the first signal, so that a second one does what it
    always did. Outside the main thread, where Python takes no handlers, nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    found = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in found.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        restore()

    for number in numbers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()

"""How fast something is, the best of several tries: another program on the machine only slows."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 0.4
"""How long to go on trying, after a first call that warms up."""


def best_rate(call: Callable[[], object], operations: float, seconds: float = SECONDS) -> float:
    """Operations a second of the fastest of as many calls as fit into ``seconds``, at least one.

    Args:
        call: does its work and waits until it is done.
        operations: that one call does.
    """
    call()
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        started = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - started)
        if now > end:
            return operations / best

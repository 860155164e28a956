"""How fast something is: at its best, since another program only slows; or over some time."""

from __future__ import annotations

import time
from collections.abc import Callable

Measure = Callable[[Callable[[], object], float], float]
"""Operations a second of a call that does so many."""
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


def mean_rate(call: Callable[[], object], operations: float, seconds: float = 2.0) -> float:
    """Operations a second of all calls in ``seconds``: what a machine holds for that long."""
    call()
    calls = 0
    started = time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        call()
        calls += 1
    return operations * calls / taken

"""How often somebody may ask: a bucket of tokens that fills at a steady rate. In memory only."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_KEPT = 10_000


class Limit:
    """A bucket for each of those who ask.

    Args:
        rate: requests a second in the long run.
        burst: requests at once.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, who: str) -> bool:
        """Whether one more request is within the limit; if so, it is counted."""
        moment = self._clock()
        left, before = self._buckets.pop(who, (self._burst, moment))
        left = min(self._burst, left + (moment - before) * self._rate)
        allowed = left >= 1
        self._buckets[who] = (left - allowed, moment)
        if len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)
        return allowed

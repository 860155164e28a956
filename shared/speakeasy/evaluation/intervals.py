"""How far a figure could be off by the luck of which texts were taken: 95% intervals.

What is drawn again is a *group*: a conversation, or a prompt with all its answers, since answers to
one prompt resemble each other. A statistic takes weights, (draws, groups), how often each group
was drawn, and gives one value a draw; NaN where it cannot be had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
Interval = tuple[float, float]

DRAWS = 1000
LEVEL = 0.95
_NORMAL = 1.959964
"""Standard errors on either side of the mean that hold 95% of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What one model has more than another, ``a`` less ``b``.

    Attributes:
        value: of the groups as they are.
        interval: 95%; None with fewer than two groups.
    """

    value: float
    interval: Interval | None

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def ratio(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    scale: float = 1,
) -> Statistic:
    """The pooled ratio: scale times sum of numerators over sum of denominators, by weight.

    Args:
        numerators, denominators: one a group.
    """
    above = np.asarray(numerators, dtype=np.float64)
    below = np.asarray(denominators, dtype=np.float64)

    def statistic(weights: Floats) -> Floats:
        whole = weights @ below
        shares = np.full(len(weights), np.nan)
        return np.divide(scale * (weights @ above), whole, out=shares, where=whole != 0)

    return statistic


def value_of(statistic: Statistic, groups: int) -> float | None:
    """The statistic of the groups as they are; None where it is no number."""
    return number(statistic(np.ones((1, groups)))[0])


def number(value: float) -> float | None:
    """A plain float; None for NaN and infinity."""
    return float(value) if np.isfinite(value) else None


def percentile_interval(
    statistic: Statistic, groups: int, *, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """95% percentile bootstrap.

    Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, chapter 13.

    Returns:
        None with fewer than two groups, or where no draw gives a number.
    """
    if groups < 2:
        return None
    return _percentiles(statistic(_weights(groups, draws, seed)))


def paired_difference(
    a: Statistic, b: Statistic, groups: int, *, draws: int = DRAWS, seed: int = 0
) -> Difference | None:
    """``a`` less ``b`` on the same groups, in the same order, both of them drawn together.

    What makes a text easy or hard for both models cancels, so the interval is narrower than the
    difference of two intervals.

    Returns:
        None where one of the two has no value.
    """
    ones = np.ones((1, groups))
    value = number((a(ones) - b(ones))[0]) if groups else None
    if value is None:
        return None
    if groups < 2:
        return Difference(value, None)
    weights = _weights(groups, draws, seed)
    return Difference(value, _percentiles(a(weights) - b(weights)))


def jackknife_interval(value: float | None, left_out: Floats) -> Interval | None:
    """95% by the delete-one jackknife (Efron & Tibshirani 1993, chapter 11).

    For counts of *different* things. A bootstrap draws some groups twice and others not at all, so
    it always finds fewer different things than there are, and its interval misses the value.

    Args:
        left_out: (groups,) the statistic without each group in turn.

    Returns:
        value ± 1.96 standard errors; None with fewer than two groups, or without a value.
    """
    groups = len(left_out)
    if value is None or groups < 2 or not np.isfinite(left_out).all():
        return None
    spread = float(((left_out - left_out.mean()) ** 2).sum())
    reach = _NORMAL * float(np.sqrt((groups - 1) / groups * spread))
    return value - reach, value + reach


def drawn_weights(groups: int, draws: int, generator: np.random.Generator) -> Floats:
    """(draws, groups): how often each group comes up in so many draws with replacement."""
    return generator.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float64)


def _weights(groups: int, draws: int, seed: int) -> Floats:
    return drawn_weights(groups, draws, np.random.default_rng(seed))


def _percentiles(values: Floats) -> Interval | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)

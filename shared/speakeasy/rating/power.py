"""What a study can find, before anyone is asked.

The chance that the report claims a preference which is there. Votes are taken to spread by rater
and by prompt; the formula is that of a t test on the mean with the variance of both together, and
``tests/test_rating_statistics.py`` holds it against simulated studies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SPREAD = 0.5
"""Standard deviation between raters, and between prompts, of the log-odds of preferring a model."""
TIES = 0.2
"""Share of votes for neither."""
PREFERENCES = (0.55, 0.6, 0.65, 0.7, 0.75)
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Power:
    """So many raters find a preference with such a chance.

    Attributes:
        chances: one for each of ``PREFERENCES``.
    """

    raters: int
    chances: tuple[float, ...]


def power_table(raters: int, pairs: int, prompts: int, comparisons: int = 1) -> list[Power]:
    """For the planned number of raters, half of it and twice as many.

    Args:
        pairs: that each rater judges.
        prompts: different ones in the study.
        comparisons: pairs of systems, over which the pairs are spread.
    """
    each = max(1, pairs // comparisons)
    numbers = sorted({max(3, raters // 2), raters, 2 * raters})
    return [
        Power(n, tuple(power(p, n, each, min(prompts, n * each)) for p in PREFERENCES))
        for n in numbers
    ]


def power(
    preference: float,
    raters: int,
    pairs: int,
    prompts: int,
    *,
    spread: float = SPREAD,
    ties: float = TIES,
) -> float:
    """The chance to claim a true preference.

    Args:
        preference: share of decided votes for one model.
        pairs: votes of each rater on these two models.
    """
    from scipy.stats import nct, t

    if min(raters, prompts) < 3 or _attainable(min(raters, prompts)) == 0:
        return 0.0
    effect = (1 - ties) * (preference - 0.5)
    slope = (1 - ties) * preference * (1 - preference) * spread
    single = max(0.0, (1 - ties) / 4 - effect**2 - 2 * slope**2)
    variance = slope**2 / raters + slope**2 / prompts + single / (raters * pairs)
    freedom = min(raters, prompts) - 1
    away = effect / math.sqrt(variance)
    edge = float(t.ppf(1 - _attainable(min(raters, prompts)) / 2, freedom))
    return float(nct.sf(edge, freedom, away) + nct.cdf(-edge, freedom, away))


def _attainable(groups: int) -> float:
    """The largest p up to the level that flipping so many groups can give: few give few."""
    ways = 2**groups
    return 2 * math.floor(LEVEL * ways / 2) / ways


def raters_for(
    preference: float, pairs: int, prompts: int, *, chance: float = 0.8, most: int = 500
) -> int | None:
    """How many raters it takes to find a preference; None if more than ``most``."""
    counts: Sequence[int] = range(3, most + 1)
    for raters in counts:
        if power(preference, raters, pairs, prompts) >= chance:
            return raters
    return None

"""The mean of values that are crossed by raters and prompts: interval and test.

Votes of one rater resemble each other, and so do votes on one prompt. Taken for independent, they
would show differences that are not there.

Variance: that of rater means plus that of prompt means, less that of single values, which both
hold (Cameron, Gelbach and Miller 2011, https://doi.org/10.1198/jbes.2010.07136); never less than
either of the first two, and t-quantiles with as many degrees of freedom as the smaller of both
allows.

Interval: both raters and prompts are drawn again with replacement, and a value's weight is the
product of its rater's and its prompt's (the pigeonhole bootstrap, Owen 2007,
https://doi.org/10.1214/07-AOAS122). Its spread counts the noise of single values three times
(section 4 there), so it gives the interval's shape, and the variance above its width.

Test: within a prompt, or within a rater, which model is which is exchangeable if there is no
difference. So all values of a prompt change sign together, prompt by prompt, then the same with
raters; the larger p counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from speakeasy.evaluation.intervals import DRAWS, Floats, drawn_weights

Ints = NDArray[np.intp]

FLIPS = 5_000
EXACT = 12
"""Up to so many groups every way of flipping them is tried."""
LEVEL = 0.05
_LEAST = 3
"""Raters, and prompts, without which there is no interval."""


@dataclass(frozen=True, slots=True)
class CrossedMean:
    """A mean and how sure it is.

    Attributes:
        value: the mean.
        error: its standard error; None with fewer than three raters or prompts.
        interval: 95%; None likewise.
        p: of there being no difference from 0, two-sided; None without values.
        count, raters, prompts: how much it rests on.
    """

    value: float
    error: float | None
    interval: tuple[float, float] | None
    p: float | None
    count: int
    raters: int
    prompts: int

    @property
    def differs(self) -> bool:
        """Whether a difference from 0 may be claimed.

        The test decides. The interval, which is a little wider, is how large it may be.
        """
        return self.interval is not None and self.p is not None and self.p <= LEVEL


def crossed_mean(
    values: Sequence[float] | Floats,
    raters: Sequence[object],
    prompts: Sequence[object],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    flips: int = FLIPS,
) -> CrossedMean:
    """The mean of ``values_N``, of which each is one rater's, on one prompt.

    Args:
        values: 0 where there is no difference.
        raters, prompts: what each is of.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if not len(values_N):
        return CrossedMean(float("nan"), None, None, None, 0, 0, 0)
    rater_N, prompt_N = numbered(raters), numbered(prompts)
    counts = int(rater_N.max()) + 1, int(prompt_N.max()) + 1
    mean = float(values_N.mean())
    generator = np.random.default_rng(seed)
    p = max(
        _flip_p(values_N, groups, count, generator, flips)
        for groups, count in ((rater_N, counts[0]), (prompt_N, counts[1]))
    )
    if min(counts) < _LEAST:
        return CrossedMean(mean, None, None, p, len(values_N), *counts)
    error = float(np.sqrt(_variance(values_N - mean, rater_N, prompt_N)))
    shape = _shape(values_N, rater_N, prompt_N, generator, draws)
    width = error * _t_over_normal(min(counts) - 1)
    interval = (mean + float(shape[0]) * width, mean + float(shape[1]) * width)
    return CrossedMean(mean, error, interval, p, len(values_N), *counts)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number (Holm 1979); None stays None."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = highest
    return adjusted


def weights_of(rater_N: Ints, prompt_N: Ints, generator: np.random.Generator, draws: int) -> Floats:
    """Weights_DN of the pigeonhole bootstrap."""
    of_raters = drawn_weights(int(rater_N.max()) + 1, draws, generator)
    of_prompts = drawn_weights(int(prompt_N.max()) + 1, draws, generator)
    return of_raters[:, rater_N] * of_prompts[:, prompt_N]


def numbered(names: Sequence[object]) -> Ints:
    """Numbers from 0 in the place of names, in the order in which they first occur."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def _variance(off_N: Floats, rater_N: Ints, prompt_N: Ints) -> float:
    of_raters, of_prompts = _clustered(off_N, rater_N), _clustered(off_N, prompt_N)
    cells = numbered(list(zip(rater_N.tolist(), prompt_N.tolist(), strict=True)))
    both = of_raters + of_prompts - _clustered(off_N, cells)
    return max(both, of_raters, of_prompts)


def _clustered(off_N: Floats, group_N: Ints) -> float:
    """Variance of the mean if groups were independent."""
    sums = np.bincount(group_N, off_N)
    count = len(sums)
    return float((sums**2).sum()) / len(off_N) ** 2 * count / max(1, count - 1)


def _shape(
    values_N: Floats, rater_N: Ints, prompt_N: Ints, generator: np.random.Generator, draws: int
) -> Floats:
    """The two ends of the interval in standard errors from the mean."""
    weights_DN = weights_of(rater_N, prompt_N, generator, draws)
    totals_D = weights_DN.sum(axis=1)
    kept_D = totals_D > 0
    means_D = (weights_DN @ values_N)[kept_D] / totals_D[kept_D]
    spread = means_D.std()
    if spread == 0:
        return np.zeros(2)
    return (np.quantile(means_D, [LEVEL / 2, 1 - LEVEL / 2]) - means_D.mean()) / spread


def _t_over_normal(freedom: int) -> float:
    from scipy.stats import norm, t

    return float(t.ppf(1 - LEVEL / 2, freedom) / norm.ppf(1 - LEVEL / 2))


def _flip_p(
    values_N: Floats, group_N: Ints, count: int, generator: np.random.Generator, flips: int
) -> float:
    """How often signs by lot, one a group, give as large a sum."""
    sums = np.bincount(group_N, values_N, minlength=count)
    observed = abs(float(sums.sum())) - 1e-9
    if count <= EXACT:
        signs = np.array(list(product((-1.0, 1.0), repeat=count)))
        return float((np.abs(signs @ sums) >= observed).mean())
    signs = generator.choice((-1.0, 1.0), (flips, count))
    return (1 + int((np.abs(signs @ sums) >= observed).sum())) / (flips + 1)

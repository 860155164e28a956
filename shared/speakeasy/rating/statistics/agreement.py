"""Krippendorff's alpha: how far raters agree beyond chance; 1 is always, 0 is by chance.

Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability",
https://repository.upenn.edu/handle/20.500.14332/2089.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from speakeasy.evaluation.intervals import Floats, drawn_weights
from speakeasy.rating.ballots import Ballot
from speakeasy.rating.study import DIMENSIONS

Metric = Literal["nominal", "ordinal", "interval"]
_DRAWS = 500


@dataclass(frozen=True, slots=True)
class Agreement:
    """Alpha.

    Attributes:
        alpha: None where it cannot be had: nothing was judged twice, or nothing varies.
        interval: 95%, units drawn again.
        units: things that at least two raters judged.
    """

    alpha: float | None
    interval: tuple[float, float] | None
    units: int


def of_choices(ballots: Sequence[Ballot], *, seed: int = 0) -> Agreement:
    """Of votes: which model won, or a tie, by item. Nominal."""
    units: dict[object, list[float]] = {}
    for ballot in ballots:
        if ballot.real and ballot.left is not None:
            winner = -1 if ballot.winner is None else ballot.winner
            units.setdefault(ballot.item, []).append(float(winner))
    return agreement(list(units.values()), "nominal", seed=seed)


def of_ratings(ballots: Sequence[Ballot], *, seed: int = 0) -> Mapping[str, Agreement]:
    """Of ratings, by dimension: how an item's answer of one model was rated. Ordinal."""
    found = {}
    for dimension in DIMENSIONS:
        units: dict[object, list[float]] = {}
        for ballot in ballots:
            if not ballot.real or ballot.ratings is None:
                continue
            for owner, given in zip((ballot.left, ballot.right), ballot.ratings, strict=True):
                value = given.get(dimension)
                if value is not None:
                    units.setdefault((ballot.item, owner), []).append(float(value))
        found[dimension] = agreement(list(units.values()), "ordinal", seed=seed)
    return found


def agreement(units: Sequence[Sequence[float]], metric: Metric, *, seed: int = 0) -> Agreement:
    """Alpha of units, each a list of the values that raters gave it."""
    pairable = [unit for unit in units if len(unit) > 1]
    if not pairable:
        return Agreement(None, None, 0)
    values = sorted({value for unit in pairable for value in unit})
    place = {value: number for number, value in enumerate(values)}
    parts_UVV = np.array(
        [_coincidences([place[v] for v in unit], len(values)) for unit in pairable]
    )
    alpha = _alpha(parts_UVV.sum(axis=0), values, metric)
    draws = drawn_weights(len(pairable), _DRAWS, np.random.default_rng(seed))
    drawn = [
        found
        for weights in draws
        if (found := _alpha(np.tensordot(weights, parts_UVV, 1), values, metric)) is not None
    ]
    few = alpha is None or len(pairable) < 3 or len(drawn) < _DRAWS // 2
    ends = None if few else np.quantile(drawn, [0.025, 0.975])
    return Agreement(
        alpha, None if ends is None else (float(ends[0]), float(ends[1])), len(pairable)
    )


def _coincidences(places: Sequence[int], size: int) -> Floats:
    """How often two raters gave a unit these two values, both ways, over raters less one."""
    counts = np.bincount(places, minlength=size).astype(np.float64)
    return (np.outer(counts, counts) - np.diag(counts)) / (len(places) - 1)


def _alpha(coincidences_VV: Floats, values: Sequence[float], metric: Metric) -> float | None:
    totals_V = coincidences_VV.sum(axis=1)
    whole = totals_V.sum()
    apart_VV = _METRICS[metric](np.asarray(values), totals_V)
    expected = float((np.outer(totals_V, totals_V) * apart_VV).sum())
    if whole <= 1 or expected == 0:
        return None
    observed = float((coincidences_VV * apart_VV).sum())
    return 1 - (whole - 1) * observed / expected


def _nominal(values_V: Floats, totals_V: Floats) -> Floats:
    return 1 - np.eye(len(values_V))


def _interval(values_V: Floats, totals_V: Floats) -> Floats:
    return (values_V[:, None] - values_V[None, :]) ** 2


def _ordinal(values_V: Floats, totals_V: Floats) -> Floats:
    """Squared number of values given between two, both ends counted half."""
    middle_V = np.cumsum(totals_V) - totals_V / 2
    return (middle_V[:, None] - middle_V[None, :]) ** 2


_METRICS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
}

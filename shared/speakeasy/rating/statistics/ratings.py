"""Ratings from 1 to 5: how they are spread, and how two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from speakeasy.rating.ballots import Ballot
from speakeasy.rating.statistics.crossed import CrossedMean, crossed_mean, holm
from speakeasy.rating.study import DIMENSIONS

POINTS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Spread:
    """One model's ratings on one dimension.

    Attributes:
        counts: how often each of 1 to 5 was given.
        cannot: how often "can't judge" was.
        median, mean: None without ratings.
    """

    dimension: str
    system: int
    counts: tuple[int, ...]
    cannot: int
    median: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class RatingDifference:
    """What the first model was given more than the second, in the same pair by the same rater.

    Attributes:
        mean: in points, with interval and p.
        adjusted: p by Holm, for all dimensions and pairs of systems.
    """

    dimension: str
    first: int
    second: int
    mean: CrossedMean
    adjusted: float | None


def spreads(ballots: Sequence[Ballot], systems: int) -> list[Spread]:
    """Every dimension and system; gold items and repeats do not count."""
    return [
        _spread(dimension, system, list(_given(ballots, dimension, system)))
        for dimension in DIMENSIONS
        for system in range(systems)
    ]


def differences(
    ballots: Sequence[Ballot], systems: int, *, seed: int = 0
) -> list[RatingDifference]:
    """Every dimension and two systems."""
    found = [
        (dimension, *pair, _difference(ballots, dimension, *pair, seed=seed))
        for dimension in DIMENSIONS
        for pair in combinations(range(systems), 2)
    ]
    adjusted = holm([each[3].p for each in found])
    return [RatingDifference(*each, p) for each, p in zip(found, adjusted, strict=True)]


def _given(ballots: Sequence[Ballot], dimension: str, system: int) -> Iterator[int | None]:
    for ballot in ballots:
        if ballot.real and ballot.ratings is not None:
            for owner, ratings in zip((ballot.left, ballot.right), ballot.ratings, strict=True):
                if owner == system and dimension in ratings:
                    yield ratings[dimension]


def _spread(dimension: str, system: int, given: list[int | None]) -> Spread:
    known = [value for value in given if value is not None]
    return Spread(
        dimension,
        system,
        tuple(known.count(point) for point in POINTS),
        len(given) - len(known),
        float(np.median(known)) if known else None,
        float(np.mean(known)) if known else None,
    )


def _difference(
    ballots: Sequence[Ballot], dimension: str, first: int, second: int, *, seed: int
) -> CrossedMean:
    values, raters, prompts = [], [], []
    for ballot in ballots:
        if (
            not ballot.real
            or ballot.ratings is None
            or {ballot.left, ballot.right} != {first, second}
        ):
            continue
        left, right = (ratings.get(dimension) for ratings in ballot.ratings)
        if left is None or right is None:
            continue
        values.append(float(left - right if ballot.left == first else right - left))
        raters.append(ballot.rater)
        prompts.append(ballot.prompt)
    return crossed_mean(values, raters, prompts, seed=seed)

"""Which of two models people prefer, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from speakeasy.evaluation.intervals import DRAWS
from speakeasy.rating.ballots import Ballot
from speakeasy.rating.statistics.crossed import (
    FLIPS,
    LEVEL,
    CrossedMean,
    crossed_mean,
    holm,
)


@dataclass(frozen=True, slots=True)
class Preference:
    """One model against another.

    Attributes:
        first, second: numbers of the systems.
        wins: ballots for the first, and losses: for the second.
        both_good, both_bad: ballots for neither.
        score: (wins + half of the ties) / all: 0.5 where neither is preferred; None of none.
        interval: of the score, 95%.
        p: two-sided; adjusted: by Holm, for all pairs of systems.
        raters, prompts: how many it rests on.
        differs: whether a preference may be claimed: the adjusted p is at most 0.05.
    """

    first: int
    second: int
    wins: int
    losses: int
    both_good: int
    both_bad: int
    score: float | None
    interval: tuple[float, float] | None
    p: float | None
    adjusted: float | None
    raters: int
    prompts: int
    differs: bool

    @property
    def count(self) -> int:
        """All ballots of the pair."""
        return self.wins + self.losses + self.both_good + self.both_bad


def preferences(
    ballots: Sequence[Ballot],
    systems: int,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    flips: int = FLIPS,
) -> list[Preference]:
    """Every two systems; gold items and repeats do not count."""
    pairs = list(combinations(range(systems), 2))
    means = [
        crossed_mean(*_values(ballots, *pair), seed=seed, draws=draws, flips=flips)
        for pair in pairs
    ]
    adjusted = holm([mean.p for mean in means])
    return [
        _preference(ballots, pair, mean, p)
        for pair, mean, p in zip(pairs, means, adjusted, strict=True)
    ]


def outcome(ballot: Ballot, first: int, second: int) -> float | None:
    """1 where ``first`` won, 0 where ``second`` did, 0.5 for a tie; None if it is of others."""
    if not ballot.real or {ballot.left, ballot.right} != {first, second}:
        return None
    if not ballot.decided:
        return 0.5
    return 1.0 if ballot.winner == first else 0.0


def _values(
    ballots: Sequence[Ballot], first: int, second: int
) -> tuple[list[float], list[int], list[str]]:
    found = [
        (result - 0.5, ballot.rater, ballot.prompt)
        for ballot in ballots
        if (result := outcome(ballot, first, second)) is not None
    ]
    return [each[0] for each in found], [each[1] for each in found], [each[2] for each in found]


def _preference(
    ballots: Sequence[Ballot], pair: tuple[int, int], mean: CrossedMean, adjusted: float | None
) -> Preference:
    results = [(outcome(ballot, *pair), ballot.choice) for ballot in ballots]
    results = [each for each in results if each[0] is not None]
    interval = mean.interval
    if interval is not None:
        interval = max(0.0, 0.5 + interval[0]), min(1.0, 0.5 + interval[1])
    return Preference(
        *pair,
        wins=sum(result == 1 for result, _ in results),
        losses=sum(result == 0 for result, _ in results),
        both_good=sum(choice == "both_good" for _, choice in results),
        both_bad=sum(choice == "both_bad" for _, choice in results),
        score=0.5 + mean.value if mean.count else None,
        interval=interval,
        p=mean.p,
        adjusted=adjusted,
        raters=mean.raters,
        prompts=mean.prompts,
        differs=mean.differs and adjusted is not None and adjusted <= LEVEL,
    )

"""How carefully raters judged, and whom the plan's rules leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from speakeasy.rating.ballots import Ballot
from speakeasy.rating.study import Exclusions

_NORMAL = 1.959964


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with Wilson's 95% interval (1927); both None of none."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        """Part over whole."""
        return self.part / self.whole if self.whole else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95%."""
        if not self.whole:
            return None
        share, square = self.part / self.whole, _NORMAL**2
        middle = (share + square / (2 * self.whole)) / (1 + square / self.whole)
        spread = share * (1 - share) / self.whole + square / (4 * self.whole**2)
        half = _NORMAL * float(np.sqrt(spread)) / (1 + square / self.whole)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Quality:
    """How somebody judged, or all of them.

    Attributes:
        ballots: real ones.
        gold: gold items passed: the better answer was chosen.
        repeats: repeated pairs on which the same was said of the same models.
        left: decided real ballots that went to the left answer; half is expected.
        ties: real ballots for neither.
        seconds: median time for a pair; None if unknown.
    """

    ballots: int
    gold: Share
    repeats: Share
    left: Share
    ties: Share
    seconds: float | None


def quality(ballots: Sequence[Ballot]) -> Quality:
    """Of one rater's ballots, or of all."""
    real = [ballot for ballot in ballots if ballot.real]
    decided = [ballot for ballot in real if ballot.decided]
    gold = [ballot for ballot in ballots if ballot.gold is not None and ballot.repeats is None]
    repeats = list(_repeats(ballots))
    seconds = [ballot.seconds for ballot in ballots if ballot.seconds is not None]
    return Quality(
        ballots=len(real),
        gold=Share(sum(ballot.choice == ballot.gold for ballot in gold), len(gold)),
        repeats=Share(sum(repeats), len(repeats)),
        left=Share(sum(ballot.choice == "left" for ballot in decided), len(decided)),
        ties=Share(len(real) - len(decided), len(real)),
        seconds=float(np.median(seconds)) if seconds else None,
    )


def by_rater(ballots: Sequence[Ballot]) -> Mapping[int, Quality]:
    """Of each rater."""
    raters: dict[int, list[Ballot]] = {}
    for ballot in ballots:
        raters.setdefault(ballot.rater, []).append(ballot)
    return {rater: quality(own) for rater, own in sorted(raters.items())}


def excluded(ballots: Sequence[Ballot], rules: Exclusions) -> Mapping[int, list[str]]:
    """Whom the rules leave out, and why: ``gold``, ``seconds``, ``one_sided``."""
    found = {}
    for rater, own in by_rater(ballots).items():
        reasons = []
        if own.gold.value is not None and own.gold.value < rules.gold:
            reasons.append("gold")
        if own.seconds is not None and own.seconds < rules.seconds:
            reasons.append("seconds")
        side = own.left.value
        many = own.left.whole >= rules.decided
        if many and side is not None and max(side, 1 - side) > rules.one_sided:
            reasons.append("one_sided")
        if reasons:
            found[rater] = reasons
    return found


def _repeats(ballots: Sequence[Ballot]) -> list[bool]:
    """Of each repeated pair, whether the same was said."""
    first = {(ballot.rater, ballot.position): ballot for ballot in ballots}
    swapped = {"left": "right", "right": "left"}
    found = []
    for ballot in ballots:
        if ballot.repeats is not None and (ballot.rater, ballot.repeats) in first:
            before = first[ballot.rater, ballot.repeats].choice
            found.append(ballot.choice == swapped.get(before, before))
    return found

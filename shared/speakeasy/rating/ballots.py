"""What a rater said of one pair, with the models in the place of sides.

This is all that the statistics see: they know neither files nor databases, and simulated studies
are made of the same thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Ratings = Mapping[str, int | None]
"""Dimension -> 1 to 5, or None for "can't judge"."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote.

    Attributes:
        rater: number of the rater, from 0.
        position: place on the rater's list, from 0.
        item: number of the item.
        prompt: the prompt's id; ballots of one prompt resemble each other.
        left, right: numbers of the systems to either side; None on gold items, for answers that no
            model gave.
        choice: one of ``study.CHOICES``.
        gold: for a gold item, the side of the better answer, ``left`` or ``right``; else None.
        repeats: position of the same item, other side up, earlier on the list; else None.
        ratings: the left answer's and the right answer's; None where they were not given.
        seconds: from the first view of the pair to the vote; None if unknown.
        lengths: characters of the left and of the right answer.
        comment: what the rater wrote.
    """

    rater: int
    position: int
    item: int
    prompt: str
    left: int | None
    right: int | None
    choice: str
    gold: str | None = None
    repeats: int | None = None
    ratings: tuple[Ratings, Ratings] | None = None
    seconds: float | None = None
    lengths: tuple[int, int] = (0, 0)
    comment: str = ""

    @property
    def decided(self) -> bool:
        """Whether it is for one of the two."""
        return self.choice in ("left", "right")

    @property
    def winner(self) -> int | None:
        """The system that it is for; None for neither, and for an answer that no model gave."""
        return {"left": self.left, "right": self.right}.get(self.choice)

    @property
    def real(self) -> bool:
        """Whether it counts: no gold item, and no repeat."""
        return self.gold is None and self.repeats is None


def tally(ballots: Iterable[Ballot], owners: tuple[int | None, int | None]) -> tuple[int, int]:
    """Decided ballots of one item for its first answer and for its second.

    Args:
        owners: the systems behind both.
    """
    winners = [ballot.winner for ballot in ballots if ballot.decided]
    return winners.count(owners[0]), winners.count(owners[1])

"""What raters say of pairs: shown, voted, rated, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from speakeasy.rating.store import Rater, Store, now


@dataclass(frozen=True, slots=True)
class Assignment:
    """A pair on a rater's list.

    Attributes:
        id: what the rater's browser knows it by.
        choice: the vote; None if there is none yet.
        rated: whether both answers have been rated.
    """

    id: str
    position: int
    item: int
    swapped: bool
    choice: str | None
    rated: bool


_ASSIGNMENT = """
    SELECT assignment.id, position, item, swapped, choice,
           EXISTS (SELECT 1 FROM rating WHERE rating.assignment = assignment.id)
    FROM assignment LEFT JOIN vote ON vote.assignment = assignment.id
    WHERE assignment.rater = ?"""


class Votes:
    """The votes of a study."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def next(self, rater: Rater) -> Assignment | None:
        """The first pair that is not done; None at the end of the list."""
        rows = self._store.all(f"{_ASSIGNMENT} ORDER BY position", rater.id)
        found = (_assignment(row) for row in rows)
        return next((each for each in found if each.choice is None or not each.rated), None)

    def get(self, rater: Rater, name: str) -> Assignment | None:
        """A pair of a rater's own list; None for another's, and for what is none."""
        row = self._store.one(f"{_ASSIGNMENT} AND assignment.id = ?", rater.id, name)
        return None if row is None else _assignment(row)

    def progress(self, rater: Rater) -> tuple[int, int]:
        """Pairs done, and pairs on the list."""
        rows = [_assignment(row) for row in self._store.all(_ASSIGNMENT, rater.id)]
        return sum(each.choice is not None and each.rated for each in rows), len(rows)

    def shown(self, assignment: Assignment) -> None:
        """The pair has been seen now, if it is the first time."""
        with self._store.change() as connection:
            connection.execute(
                "UPDATE assignment SET shown_at = ? WHERE id = ? AND shown_at IS NULL",
                (now(), assignment.id),
            )

    def vote(self, assignment: Assignment, choice: str) -> bool:
        """Take a vote. False, and nothing changes, if there is one already."""
        with self._store.change() as connection:
            shown = connection.execute(
                "SELECT shown_at FROM assignment WHERE id = ?", (assignment.id,)
            ).fetchone()
            if shown is None:
                return False
            at = now()
            done = connection.execute(
                "INSERT OR IGNORE INTO vote VALUES (?, ?, ?, ?)",
                (assignment.id, choice, _seconds(shown[0], at), at),
            )
        return done.rowcount == 1

    def rate(
        self,
        rater: Rater,
        assignment: Assignment,
        ratings: Mapping[tuple[str, str], int | None],
        comment: str,
    ) -> bool:
        """Take the ratings of a pair that was voted on. False if there are some already.

        Args:
            ratings: (side, dimension) -> 1 to 5, or None for "can't judge".
        """
        with self._store.change() as connection:
            voted = connection.execute(
                "SELECT 1 FROM vote WHERE assignment = ?", (assignment.id,)
            ).fetchone()
            rated = connection.execute(
                "SELECT 1 FROM rating WHERE assignment = ? LIMIT 1", (assignment.id,)
            ).fetchone()
            if voted is None or rated is not None:
                return False
            connection.executemany(
                "INSERT INTO rating VALUES (?, ?, ?, ?)",
                [(assignment.id, *key, value) for key, value in ratings.items()],
            )
            if comment:
                connection.execute("INSERT INTO remark VALUES (?, ?)", (assignment.id, comment))
            connection.execute("UPDATE rater SET seen_at = ? WHERE id = ?", (now(), rater.id))
        return True


def _assignment(row: tuple[str, int, int, int, str | None, int]) -> Assignment:
    name, position, item, swapped, choice, rated = row
    return Assignment(name, position, item, bool(swapped), choice, bool(rated))


def _seconds(shown_at: str | None, at: str) -> float | None:
    if shown_at is None:
        return None
    return (datetime.fromisoformat(at) - datetime.fromisoformat(shown_at)).total_seconds()

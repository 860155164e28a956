"""From votes on sides to votes on models: only once the study is closed."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from speakeasy.errors import RunError
from speakeasy.rating.ballots import Ballot, Ratings
from speakeasy.rating.key import Key
from speakeasy.rating.store import read_only
from speakeasy.rating.study import SIDES, Record, Study

_VOTES = """
    SELECT assignment.id, rater.place, position, item, swapped, repeats, choice, seconds, voted_at,
           comment
    FROM vote
    JOIN assignment ON assignment.id = vote.assignment
    JOIN rater ON rater.id = assignment.rater
    LEFT JOIN remark ON remark.assignment = vote.assignment
    ORDER BY rater.place, position"""


@dataclass(frozen=True, slots=True)
class Votes:
    """All that the database holds, still blind.

    Attributes:
        rows: a vote each, by place and position.
        ratings: by assignment: dimension -> value, of the left and of the right answer.
        counts: raters invited, begun, finished and erased; comments, recordings, refusals.
        closed_at: None while the study is open.
    """

    rows: tuple[sqlite3.Row, ...]
    ratings: dict[str, tuple[dict[str, int | None], dict[str, int | None]]]
    counts: Record
    closed_at: str | None


def read_votes(study: Study) -> Votes:
    """Read a study's database, which is not changed.

    Raises:
        RunError: nobody has been invited yet, or the database is broken.
    """
    connection = read_only(study.database)
    try:
        connection.execute("BEGIN")  # one moment: no vote, and no closing, between the queries
        rows = tuple(connection.execute(_VOTES))
        ratings: dict[str, Any] = {}
        for name, side, dimension, value in connection.execute("SELECT * FROM rating"):
            ratings.setdefault(name, ({}, {}))[SIDES.index(side)][dimension] = value
        closed = connection.execute("SELECT value FROM meta WHERE name = 'closed_at'").fetchone()
        return Votes(rows, ratings, _counts(connection), closed and closed[0])
    except sqlite3.Error as error:
        raise RunError(f"{study.database}: cannot be read ({error}); restore a copy") from error
    finally:
        connection.close()


def require_closed(study: Study, votes: Votes) -> None:
    """Refuse to look behind a study that still takes votes.

    Raises:
        RunError: it is open.
    """
    if votes.closed_at is None:
        raise RunError(
            f"{study.path}: still open, and nobody should know who is ahead; close it with "
            f"speakeasy rate close {study.path}"
        )


def ballots_of(study: Study, votes: Votes, key: Key) -> list[Ballot]:
    """The votes with models in the place of sides, by place and position."""
    return [_ballot(study, key, row, votes.ratings.get(row["id"])) for row in votes.rows]


def _ballot(
    study: Study, key: Key, row: sqlite3.Row, ratings: tuple[Ratings, Ratings] | None
) -> Ballot:
    item = study.items[row["item"]]
    order = (1, 0) if row["swapped"] else (0, 1)
    owners, better = key.owners[item.number], key.better[item.number]
    return Ballot(
        rater=row["place"],
        position=row["position"],
        item=item.number,
        prompt=key.prompts[item.number],
        left=owners[order[0]],
        right=owners[order[1]],
        choice=row["choice"],
        gold=None if better is None else SIDES[order.index(better)],
        repeats=row["repeats"],
        ratings=ratings,
        seconds=row["seconds"],
        lengths=(len(item.answers[order[0]]), len(item.answers[order[1]])),
        comment=row["comment"] or "",
    )


def _counts(connection: sqlite3.Connection) -> Record:
    def one(query: str) -> int:
        return connection.execute(f"SELECT COUNT(*) FROM {query}").fetchone()[0]

    unfinished = """assignment LEFT JOIN vote ON vote.assignment = assignment.id
                    WHERE assignment.rater = rater.id AND vote.choice IS NULL"""
    return {
        "invited": one("rater"),
        "begun": one("rater WHERE consented_at IS NOT NULL"),
        "finished": one(
            f"rater WHERE consented_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {unfinished})"
        ),
        "erased": one("rater WHERE erased_at IS NOT NULL"),
        "votes": one("vote"),
        "comments": one("remark"),
        "recordings": one("recording"),
        "refusals": one("refusal"),
    }

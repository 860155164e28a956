"""The database of a study: SQLite, from the standard library.

What a method has written is on the disk when it returns (``synchronous=FULL``): a vote that was
acknowledged survives a killed process. Every change is one transaction.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from speakeasy.errors import RunError, UsageError
from speakeasy.rating.invitations import hashed, new_token
from speakeasy.rating.study import Study

_BUSY_SECONDS = 10.0
_VERSION = "1"
SESSION_DAYS = 60


@dataclass(frozen=True, slots=True)
class Rater:
    """Who is asked.

    Attributes:
        id: in the database; place: on the schedule.
        label: the organiser's note.
        invited_at, expires_at, consented_at, begun_at, seen_at, erased_at: times, or None.
    """

    id: int
    place: int
    label: str
    created_at: str
    expires_at: str
    revoked_at: str | None
    consented_at: str | None
    begun_at: str | None
    language: str | None
    seen_at: str | None
    erased_at: str | None

    @property
    def welcome(self) -> bool:
        """Whether the invitation holds."""
        return self.revoked_at is None and self.erased_at is None and self.expires_at > now()


_RATER = ", ".join(f"rater.{name}" for name in Rater.__slots__)


def now() -> str:
    """The time, as the database holds it."""
    return _time(datetime.now(UTC))


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


class Store:
    """A connection a thread, to one study's database.

    Args:
        database: its file, which must exist; ``open_store`` makes it.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._local = threading.local()
        self._writing = threading.Lock()  # SQLite's own waiting is by polling, with growing pauses

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        found = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = _connect(self._database)
        return found

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on the disk when the block ends; undone where it raises."""
        connection = self.connection
        with self._writing:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def one(self, query: str, *values: Any) -> Any:
        """The first row, or None."""
        return self.connection.execute(query, values).fetchone()

    def all(self, query: str, *values: Any) -> list[Any]:
        """All rows."""
        return self.connection.execute(query, values).fetchall()

    def end(self) -> None:
        """Close this thread's connection."""
        found = getattr(self._local, "connection", None)
        if found is not None:
            found.close()
            self._local.connection = None

    # The study.

    @property
    def secret(self) -> str:
        """What the tokens of forms are made with."""
        return self.one("SELECT value FROM meta WHERE name = 'secret'")[0]

    @property
    def closed_at(self) -> str | None:
        """When the study was closed; None while it is open."""
        found = self.one("SELECT value FROM meta WHERE name = 'closed_at'")
        return None if found is None else found[0]

    def close_study(self) -> bool:
        """Take no more votes. False if it was closed before."""
        with self.change() as connection:
            done = connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('closed_at', ?)", (now(),)
            )
        return done.rowcount == 1

    def refuse(self, kind: str, rater: int | None, detail: str) -> None:
        """Note what was refused."""
        with self.change() as connection:
            connection.execute(
                "INSERT INTO refusal VALUES (?, ?, ?, ?)", (now(), kind, rater, detail[:200])
            )

    # Raters.

    def invite(self, count: int, places: int, *, days: float, label: str = "") -> list[str]:
        """Tokens for so many more raters, on the next free places.

        Args:
            places: that the schedule has.
            label: the organiser's note; the place's number is put behind it.

        Raises:
            UsageError: the schedule has not so many left.
        """
        expires = _time(datetime.now(UTC) + timedelta(days=days))
        tokens = [new_token() for _ in range(count)]
        with self.change() as connection:
            (taken,) = connection.execute("SELECT COUNT(*) FROM rater").fetchone()
            if taken + count > places:
                raise UsageError(
                    f"-n {count}: the study has {places - taken:,} places left; make one for more "
                    "with speakeasy rate new --raters"
                )
            for place, token in enumerate(tokens, taken):
                name = f"{label or 'rater'} {place + 1}"
                connection.execute(
                    "INSERT INTO rater (place, token_hash, label, created_at, expires_at) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (place, hashed(token), name, now(), expires),
                )
        return tokens

    def revoke(self, place: int) -> bool:
        """End a rater's access; what they said stays. False if there is no such place."""
        with self.change() as connection:
            done = connection.execute(
                "UPDATE rater SET revoked_at = COALESCE(revoked_at, ?) WHERE place = ?",
                (now(), place),
            )
            connection.execute(
                "DELETE FROM session WHERE rater = (SELECT id FROM rater WHERE place = ?)", (place,)
            )
        return done.rowcount == 1

    def raters(self) -> list[Rater]:
        """All who were invited, by place."""
        return [Rater(*row) for row in self.all(f"SELECT {_RATER} FROM rater ORDER BY place")]

    def rater_by_token(self, token: str) -> Rater | None:
        """Whom an invitation is for, whether it still holds or not."""
        row = self.one(f"SELECT {_RATER} FROM rater WHERE token_hash = ?", hashed(token))
        return None if row is None else Rater(*row)

    def rater_by_session(self, token: str) -> Rater | None:
        """Whose session it is; None if it is nobody's, or over."""
        row = self.one(
            f"SELECT {_RATER} FROM session JOIN rater ON rater.id = session.rater "
            "WHERE session.token_hash = ? AND session.expires_at > ?",
            hashed(token),
            now(),
        )
        return None if row is None else Rater(*row)

    def begin_session(self, rater: Rater) -> str:
        """A new session's token."""
        token = new_token() + new_token()
        expires = _time(datetime.now(UTC) + timedelta(days=SESSION_DAYS))
        with self.change() as connection:
            connection.execute(
                "INSERT INTO session VALUES (?, ?, ?, ?)", (hashed(token), rater.id, now(), expires)
            )
            connection.execute("UPDATE rater SET seen_at = ? WHERE id = ?", (now(), rater.id))
        return token

    def set_language(self, rater: Rater, language: str) -> None:
        """In which language a rater reads the pages."""
        with self.change() as connection:
            connection.execute("UPDATE rater SET language = ? WHERE id = ?", (language, rater.id))

    def consent(self, rater: Rater, study: Study) -> None:
        """A rater takes part: their list is made out, under ids that say nothing."""
        with self.change() as connection:
            done = connection.execute(
                "UPDATE rater SET consented_at = ? WHERE id = ? AND consented_at IS NULL",
                (now(), rater.id),
            )
            if done.rowcount:
                connection.executemany(
                    "INSERT INTO assignment (id, rater, position, item, swapped, repeats) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (new_token(), rater.id, position, slot.item, slot.swapped, slot.repeats)
                        for position, slot in enumerate(study.schedule[rater.place])
                    ],
                )

    def begin(self, rater: Rater) -> None:
        """A rater has read the instructions."""
        with self.change() as connection:
            connection.execute(
                "UPDATE rater SET begun_at = COALESCE(begun_at, ?) WHERE id = ?", (now(), rater.id)
            )

    def erase(self, rater: Rater) -> list[str]:
        """Forget all that a rater has said.

        Returns:
            The names of their recordings' files, for the caller to remove.
        """
        with self.change() as connection:
            found = connection.execute("SELECT file FROM recording WHERE rater = ?", (rater.id,))
            names = [row[0] for row in found.fetchall()]
            for table in ("recording", "assignment", "session"):
                connection.execute(f"DELETE FROM {table} WHERE rater = ?", (rater.id,))
            connection.execute("UPDATE refusal SET rater = NULL WHERE rater = ?", (rater.id,))
            connection.execute(
                "UPDATE rater SET erased_at = ?, consented_at = NULL, begun_at = NULL, "
                "language = NULL, seen_at = NULL WHERE id = ?",
                (now(), rater.id),
            )
        return names


def open_store(study: Study) -> Store:
    """A study's database, made if there is none.

    Raises:
        RunError: it cannot be used, or is of another version.
    """
    try:
        if not study.database.exists():
            _make(study.database)
        store = Store(study.database)
        version = store.one("SELECT value FROM meta WHERE name = 'version'")
    except sqlite3.Error as error:
        raise RunError(f"{study.database}: cannot be used ({error}); restore a copy") from error
    if version is None or version[0] != _VERSION:
        raise RunError(f"{study.database}: is of another version; expected {_VERSION}")
    return store


def read_only(database: Path) -> sqlite3.Connection:
    """A connection that can change nothing; for reports and exports.

    Raises:
        RunError: there is no database yet.
    """
    if not database.is_file():
        raise RunError(
            f"{database.parent}: nobody has been invited yet; invite with speakeasy rate invite"
        )
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def _make(database: Path) -> None:
    """The empty database, whole or not at all."""
    temporary = database.with_name(f".{database.name}-{secrets.token_hex(4)}")
    connection = _connect(temporary)
    try:
        connection.executescript(
            files("speakeasy.rating").joinpath("schema.sql").read_text(encoding="utf-8")
        )
        connection.execute("INSERT INTO meta VALUES ('version', ?)", (_VERSION,))
        connection.execute("INSERT INTO meta VALUES ('secret', ?)", (secrets.token_urlsafe(32),))
    finally:
        connection.close()
    temporary.chmod(0o600)
    temporary.replace(database)


def _connect(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what was erased is gone from the file
    return connection

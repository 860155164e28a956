"""A study's votes and recordings as files that others can read.

While the study is open the files are as blind as the server: items and sides, without models.
The same study gives the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasy.files import new_directory, write_text
from speakeasy.rating.key import Key
from speakeasy.rating.store import read_only
from speakeasy.rating.study import DIMENSIONS, SIDES, Record, Study
from speakeasy.rating.unblind import Votes, read_votes

VOTES, ITEMS, MANIFEST, SUMS, README = (
    "votes.jsonl", "items.jsonl", "recordings.jsonl", "SHA256SUMS", "README.txt",
)  # fmt: skip
VOTES_CSV = "votes.csv"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins with one of these is a formula to a spreadsheet (OWASP, CSV injection)."""

_ABOUT = """Votes of a blind study: {title}

votes.jsonl, votes.csv   a line a vote
  rater       number of the rater, from 1
  position    place on the rater's list, from 1
  item        number of the pair, a line of items.jsonl from 0
  left_answer, right_answer   which of the item's two answers was shown there: 0 or 1
  choice      left, right, both_good or both_bad
  left_NAME, right_NAME       1 (worst) to 5 (best); empty for "cannot judge"
  comment     what the rater wrote
  seconds     from the first view of the pair to the vote
  voted_at    UTC
  repeats     position of the same pair earlier on the list, the other side up; else empty
{unblinded}items.jsonl              a line a pair: the prompt, what was said before it, two answers
recordings.jsonl         a line a file of audio/: dialogue, rater, type, bytes, seconds, sha256
SHA256SUMS               of every file; sha256sum -c checks them
"""
_UNBLINDED = """  left_model, right_model     whose answers they are; empty for gold items
  gold        for a pair whose better answer is known: the side it was on
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        hash: sha256 of ``SHA256SUMS``: one number that stands for all of it.
        blind: whether the models are left out, because the study is open.
    """

    votes: int
    recordings: int
    hash: str
    blind: bool


def export(study: Study, directory: Path) -> Exported:
    """Write everything that raters have given into a new directory.

    Raises:
        RunError: the directory is not empty, or nobody has been invited.
    """
    votes = read_votes(study)
    key = None if votes.closed_at is None else Key.read(study.path)
    rows = [_row(votes, row, key) for row in votes.rows]
    with new_directory(directory) as place:
        write_text(place / VOTES, _lines(rows))
        write_text(place / VOTES_CSV, _csv(rows))
        shutil.copyfile(study.path / ITEMS, place / ITEMS)
        recordings = _recordings(study, place)
        write_text(place / MANIFEST, _lines(recordings))
        about = _ABOUT.format(title=study.plan.title, unblinded=_UNBLINDED if key else "")
        write_text(place / README, about)
        sums = _sums(place)
        write_text(place / SUMS, sums)
    digest = hashlib.sha256(sums.encode()).hexdigest()
    return Exported(len(rows), len(recordings), digest, key is None)


def _row(votes: Votes, row: Any, key: Key | None) -> Record:
    shown = (1, 0) if row["swapped"] else (0, 1)
    found: Record = {
        "rater": row["place"] + 1,
        "position": row["position"] + 1,
        "item": row["item"],
        "left_answer": shown[0],
        "right_answer": shown[1],
        "choice": row["choice"],
    }
    if key is not None:
        owners, better = key.owners[row["item"]], key.better[row["item"]]
        for side, answer in zip(SIDES, shown, strict=True):
            owner = owners[answer]
            found[f"{side}_model"] = None if owner is None else key.systems[owner]
        found["gold"] = None if better is None else SIDES[shown.index(better)]
    given = votes.ratings.get(row["id"], ({}, {}))
    for side, ratings in zip(SIDES, given, strict=True):
        for dimension in DIMENSIONS:
            found[f"{side}_{dimension}"] = ratings.get(dimension)
    repeats = row["repeats"]
    return found | {
        "comment": row["comment"] or "",
        "seconds": row["seconds"],
        "voted_at": row["voted_at"],
        "repeats": None if repeats is None else repeats + 1,
    }


def _recordings(study: Study, place: Path) -> list[Record]:
    """The manifest; the files are copied."""
    with closing(read_only(study.database)) as connection:
        rows = connection.execute(
            "SELECT file, dialogue, place, mime, bytes, seconds, sha256 FROM recording "
            "JOIN rater ON rater.id = recording.rater ORDER BY place, dialogue"
        ).fetchall()
    found = []
    for row in rows:
        source = study.audio / row["file"]
        if source.is_file():
            (place / "audio").mkdir(exist_ok=True)
            shutil.copyfile(source, place / "audio" / row["file"])
        record = {
            name: row[name] for name in ("file", "dialogue", "mime", "bytes", "seconds", "sha256")
        }
        found.append(record | {"rater": row["place"] + 1, "missing": not source.is_file()})
    return found


def _lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _csv(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return written.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _sums(place: Path) -> str:
    lines = []
    for path in sorted(place.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {path.relative_to(place).as_posix()}\n")
    return "".join(lines)

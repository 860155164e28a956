"""CSV files as a stream of records that look like those of the JSON formats.

Two layouts, told apart by the header: one conversation a row (``prompt``, ``completion`` and,
if wanted, ``system``), or one message a row (``conversation_id``, ``role``, ``content``), where the
rows of a conversation stand together. Further columns become fields. Commas, semicolons
(spreadsheets in most of Europe) and tabs are told apart by the header, too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from speakeasy.data.chat import Origin
from speakeasy.data.records import (
    MAX_RECORD_BYTES,
    UTF8_BOM,
    Problem,
    Record,
    bad_character,
    not_utf8,
    printable,
    quote,
)

CONVERSATION_LAYOUT = ("prompt", "completion")
MESSAGE_LAYOUT = ("conversation_id", "role", "content")
_DELIMITERS = ",;\t"


class _Row(NamedTuple):
    origin: Origin
    cells: list[str]
    raw: bytes


def read_table(path: Path) -> Iterator[Record | Problem]:
    """The conversations of a CSV file, each with ``prompt``, ``completion`` or with ``messages``.

    Under a header that cannot be used, every row is a problem.
    """
    with path.open("rb") as file:
        delimiter = _delimiter(file.readline(MAX_RECORD_BYTES))
        file.seek(0)
        rows = _read_rows(path, file, delimiter)
        header = next(rows, None)
        if header is None:
            return
        columns = [] if isinstance(header, Problem) else [name.strip() for name in header.cells]
        reason = _header_problem(columns)
        if reason is not None:
            for row in chain([header], rows):
                problem = row if isinstance(row, Problem) else Problem(row.origin, reason, row.raw)
                yield problem
                reason = "stands under a header that cannot be used"
        elif set(MESSAGE_LAYOUT) <= set(columns):
            yield from _join_messages(_name_cells(columns, rows))
        else:
            yield from _name_cells(columns, rows)


def _delimiter(header: bytes) -> str:
    """The delimiter that makes most known columns of the header; a comma if none does."""
    known = {*CONVERSATION_LAYOUT, *MESSAGE_LAYOUT, "system", "id"}
    text = header.removeprefix(UTF8_BOM).decode(errors="replace").strip()

    def columns(delimiter: str) -> int:
        return len(known & {cell.strip(' "') for cell in text.split(delimiter)})

    return max(_DELIMITERS, key=columns)


def _header_problem(columns: Sequence[str]) -> str | None:
    if len(set(columns)) < len(columns):
        return f"the header has a column twice: {quote(', '.join(columns), 200)}"
    if any(set(layout) <= set(columns) for layout in (CONVERSATION_LAYOUT, MESSAGE_LAYOUT)):
        return None
    return (
        f"the header has the columns {quote(', '.join(columns), 200)}; expected "
        f"{', '.join(CONVERSATION_LAYOUT)} or {', '.join(MESSAGE_LAYOUT)}"
    )


def _read_rows(path: Path, file: BinaryIO, delimiter: str) -> Iterator[_Row | Problem]:
    """Rows as they stand; a row that the CSV grammar or UTF-8 forbids is a problem."""
    taken: list[bytes] = []

    def lines() -> Iterator[str]:
        while line := file.readline(MAX_RECORD_BYTES):
            taken.append(line.removeprefix(UTF8_BOM) if file.tell() == len(line) else line)
            yield taken[-1].decode(errors="surrogateescape")

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    next_line = 1
    while True:
        taken.clear()
        reason = None
        cells: list[str] = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            wrong = printable(str(error))
            reason = f"is not CSV ({wrong}); expected cells with every quotation mark closed"
        raw = b"".join(taken)
        origin = Origin(path, next_line)
        next_line += len(taken)
        try:
            reason = reason or bad_character(raw.decode())
        except UnicodeDecodeError as error:
            reason = not_utf8(raw, error)
        if reason:
            yield Problem(origin, reason, raw)
        elif raw.strip():
            yield _Row(origin, cells, raw)


def _name_cells(
    columns: Sequence[str], rows: Iterator[_Row | Problem]
) -> Iterator[Record | Problem]:
    for row in rows:
        if isinstance(row, Problem):
            yield row
        elif len(row.cells) != len(columns):
            reason = f"has {len(row.cells)} cells; expected {len(columns)}, as in the header"
            yield Problem(row.origin, reason, row.raw)
        else:
            yield Record(row.origin, dict(zip(columns, row.cells, strict=True)), row.raw)


def _join_messages(rows: Iterator[Record | Problem]) -> Iterator[Record | Problem]:
    """Join rows of one ``conversation_id``; a broken row spoils the conversations it touches."""
    seen: set[str] = set()
    group: list[Record] = []
    group_spoiled_by: Problem | None = None
    previous: Problem | None = None  # the row before, if it was broken
    for row in rows:
        if isinstance(row, Problem):
            yield row
            group_spoiled_by = previous = row
            continue
        name = row.value["conversation_id"]
        if group and name != group[0].value["conversation_id"]:
            yield _join(group, group_spoiled_by, seen)
            group = []
        if not group:
            group_spoiled_by = previous
        previous = None
        group.append(row)
    if group:
        yield _join(group, group_spoiled_by, seen)


def _join(group: Sequence[Record], spoiled_by: Problem | None, seen: set[str]) -> Record | Problem:
    origin = group[0].origin
    raw = b"".join(row.raw for row in group)
    name = group[0].value["conversation_id"]
    if spoiled_by is not None:
        line = spoiled_by.origin.line
        return Problem(origin, f"may have lost line {line}, which cannot be read", raw)
    if not name.strip():
        return Problem(origin, "has an empty conversation_id; expected a name or a number", raw)
    if name in seen:
        reason = f"conversation_id {quote(name)} ended further up; expected its rows together"
        return Problem(origin, reason, raw)
    seen.add(name)
    value: dict[str, object] = {}
    for column in group[0].value:
        cells = [row.value[column] for row in group]
        value[column] = cells[0] if len(set(cells)) == 1 else cells
    for column in MESSAGE_LAYOUT:
        del value[column]
    value["id"] = name
    value["messages"] = [
        {"role": row.value["role"], "content": row.value["content"]} for row in group
    ]
    return Record(origin, value, raw)

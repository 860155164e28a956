"""What ``speakeasy data`` shows: the parts of its JSON, and text and tables for people."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from speakeasy.cli.common import console, say

if TYPE_CHECKING:
    from speakeasy.data.chat import Conversation
    from speakeasy.data.dataset import Dataset
    from speakeasy.data.duplicates import Duplicates
    from speakeasy.data.records import Problem
    from speakeasy.data.status import Status

PRINTED_AT_MOST = 20


# JSON ---------------------------------------------------------------------------------------


def files_json(dataset: Dataset) -> list[dict[str, Any]]:
    """The files, what each was read as and why, and what it gave."""
    return [
        {
            "path": str(source.path),
            "format": source.format,
            "reason": source.reason,
            "conversations": source.conversations,
            "problems": source.problems,
        }
        for source in dataset.sources
    ]


def problem_json(problem: Problem) -> dict[str, Any]:
    """Where a problem stands, and what it is."""
    return {
        "file": str(problem.origin.path),
        "line": problem.origin.line,
        "reason": problem.reason,
    }


def reject_json(problem: Problem) -> dict[str, Any]:
    """A line of the rejects file; bytes that are not UTF-8 are kept in base64."""
    try:
        raw = {"raw": problem.raw.decode()}
    except UnicodeDecodeError:
        raw = {"raw_base64": base64.b64encode(problem.raw).decode()}
    return {"origin": str(problem.origin), "reason": problem.reason, **raw}


def duplicates_json(group: Duplicates, conversations: Sequence[Conversation]) -> dict[str, Any]:
    """A group, its members by file and line."""
    return {
        "exact": group.exact,
        "similarity": round(group.similarity, 4),
        "members": [str(conversations[index].origin) for index in group.members],
    }


# Text ---------------------------------------------------------------------------------------


def say_files(dataset: Dataset, is_starter: bool) -> None:
    """What each file was read as, or that no file was given."""
    if is_starter:
        say("No FILE given: taking the starter data that comes with speakeasy.")
        return
    for source in dataset.sources:
        problems = f", {source.problems:,} problems" if source.problems else ""
        say(
            f"{source.path}: {source.conversations:,} conversations{problems} "
            f"({source.format}: {source.reason})"
        )


def say_some(lines: Sequence[str], what: str) -> None:
    """The first lines, and how many more there are."""
    for line in lines[:PRINTED_AT_MOST]:
        say(line)
    if len(lines) > PRINTED_AT_MOST:
        say(f"... and {len(lines) - PRINTED_AT_MOST:,} more {what}; --json has all of them")


def duplicates_line(group: Duplicates, conversations: Sequence[Conversation]) -> str:
    """A group as one line that begins with a file and line."""
    first, *others = (str(conversations[index].origin) for index in group.members)
    named = ", ".join(others[:3]) + (f" and {len(others) - 3:,} more" if len(others) > 3 else "")
    how = "exact" if group.exact else f"near ({group.similarity:.0%} of word triples shared)"
    return f"{first}: {how} duplicate of {named}"


def print_status(figures: Status) -> None:
    """The figures as a table, and the verdict."""
    most = 12
    rows = [
        ["conversations", f"{figures.conversations:,}"],
        ["messages", f"{figures.turns:,}"],
        ["words", f"{figures.words:,} ({figures.answer_words:,} of them in answers)"],
        ["UTF-8 bytes", f"{figures.bytes:,}"],
        ["words each", _percentiles_text(figures.words_percentiles)],
        ["messages each", _percentiles_text(figures.turns_percentiles)],
        ["with a system message", f"{figures.system_share:.0%}"],
        ["exact duplicates", f"{figures.exact_duplicates:,}"],
        ["near duplicates", f"{figures.near_duplicates:,}"],
        ["not in Unicode form NFC", f"{figures.not_nfc:,}"],
    ]
    for field, counts in figures.fields.items():
        named = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
        rest = [f"{len(counts) - most} more"] if len(counts) > most else []
        rows.append([field, ", ".join(named + rest)])
    print_table(["", ""], rows)
    say(
        f"Verdict: {figures.verdict}: {figures.distinct:,} distinct conversations; "
        "1,000 to 10,000 are recommended."
    )


def _percentiles_text(percentiles: dict[int, int]) -> str:
    names = {0: "least", 50: "median", 100: "most"}
    return ", ".join(
        f"{names.get(percent, f'{percent}%')} {value:,}" for percent, value in percentiles.items()
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table on stderr; columns behind the first hold numbers when they have names."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if any(columns) and number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)

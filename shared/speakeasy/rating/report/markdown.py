"""A study's report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from speakeasy.evaluation.markdown import plain
from speakeasy.rating.report.tables import Table, tables
from speakeasy.rating.study import Record


def markdown(record: Record) -> str:
    """The whole report."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: Record) -> Iterator[str]:
    yield f"# {plain(record['plan']['title'] or ' or '.join(record['systems']))}"
    yield ""
    yield "## Verdict"
    yield ""
    for line in record["verdict"]:
        yield f"- {plain(line)}"
    if record["warnings"]:
        yield ""
        yield "Before you believe it:"
        yield ""
        for line in record["warnings"]:
            yield f"- {plain(line)}"
    for table in tables(record):
        yield ""
        yield f"## {plain(table.title)}"
        yield ""
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(plain, table.columns))} |"
    yield f"|---|{'---:|' * (len(table.columns) - 1)}"
    for row in table.rows:
        yield f"| {' | '.join(map(plain, row))} |"
    if table.note:
        yield ""
        yield plain(table.note)

"""A comparison as Markdown: ``report.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from speakeasy.evaluation.tables import Row, data_size, duration, grouped_rows, guide_rows
from speakeasy.training.run import Record

_SHOWN = 12
"""Prompts whose answers are shown; ``comparison.json`` has all."""


def markdown(comparison: Record) -> str:
    """The whole report."""
    return "\n".join(_lines(comparison)) + "\n"


def guide_table(comparison: Record) -> str:
    """The guide's table alone."""
    return "\n".join(_table(comparison, guide_rows(comparison)))


def _lines(comparison: Record) -> Iterator[str]:
    names = [run["name"] for run in comparison["runs"]]
    yield f"# {plain(', '.join(names))}"
    yield ""
    yield "## Verdict"
    yield ""
    for line in comparison["verdict"]["lines"]:
        yield f"- {plain(line)}"
    if comparison["warnings"]:
        yield ""
        yield "Before you believe it:"
        yield ""
        for line in comparison["warnings"]:
            yield f"- {plain(line)}"
    yield ""
    yield "## The guide's table"
    yield ""
    yield from _table(comparison, guide_rows(comparison))
    for heading, rows in grouped_rows(comparison):
        yield ""
        yield f"## {heading}"
        yield ""
        yield from _table(comparison, rows)
    yield ""
    yield "Brackets: 95% intervals, over conversations or prompts."
    yield ""
    yield "## Answers"
    for answer in _spread(comparison["answers"]):
        yield ""
        yield f"**{plain(answer['prompt'])}**"
        yield ""
        for name in names:
            for said in answer["answers"].get(name, [])[:1]:
                yield f"- {plain(name)}: {plain(said) or '(nothing)'}"
    yield ""
    yield "## What ran on what"
    yield ""
    yield from _origins(comparison)


def _table(comparison: Record, rows: Sequence[Row]) -> Iterator[str]:
    names = [plain(run["name"]) for run in comparison["runs"]]
    yield f"| | {' | '.join(names)} | |"
    yield f"|---|{'---:|' * len(names)}---|"
    for row in rows:
        cells = " | ".join(map(str, row.cells))
        yield f"| {plain(row.label)} | {cells} | {row.note or row.aim} |"


def _origins(comparison: Record) -> Iterator[str]:
    for run in comparison["runs"]:
        device = run["device"]
        held = device["quantization"] or device["precision"]
        yield (
            f"- **{plain(run['name'])}**: {plain(run['model']['name'])} "
            f"({run['model']['parameters']:,} parameters), evaluated with {device['backend']} on "
            f"{plain(device['name'])}, {held}, seed {run['seed']}"
        )
        for part in run["lineage"]:
            kind = "pre-training" if part["kind"] == "pretrain" else "training"
            yield (
                f"    - {kind} `{plain(part['run'])}`: {part['steps']:,} steps on "
                f"{plain(part['data'])}, {duration(part['seconds'])}, "
                f"{data_size(part['peak_memory_bytes'])}, {part['backend']} on "
                f"{plain(part['device'])}, seed {part['seed']}"
            )


def _spread(answers: Sequence[Record]) -> Sequence[Record]:
    """At most so many, at even distances."""
    step = max(1, -(-len(answers) // _SHOWN))
    return answers[::step]


def plain(words: str) -> str:
    """Text on one line that Markdown takes as text."""
    line = " ".join(str(words).split())
    for mark in "\\`*_[]<>|#":
        line = line.replace(mark, f"\\{mark}")
    return line

"""``speakeasy rate report``, ``export``, ``preferences``: what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from speakeasy.cli.common import command, console, emit, json_option, say
from speakeasy.cli.rate_serve import STUDY

if TYPE_CHECKING:
    from speakeasy.rating.report.tables import Table

_NAMES = 16
"""Least width of a table's first column, if its words are as long."""


@command()
@STUDY
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the report goes; one that was made before is replaced.  [default: STUDY-report]",
)
@json_option
def report(study: Path, output_dir: Path | None, as_json: bool) -> None:
    """Say what the votes show.

    Only once the study is closed. Preferences with their intervals and tests, ratings, agreement,
    care, with and without the raters whom the rules leave out that were fixed beforehand, and
    which automatic figures go with people's judgement; a verdict in words, which says "not
    distinguishable" where it is so. The same votes give the same bytes: report.json, report.md and
    one HTML page.

    \b
    Examples:
      speakeasy rate report study
      speakeasy rate report study --output-dir report --json
    """
    from speakeasy.files import disk_errors, new_directory, write_json, write_text
    from speakeasy.rating.analysis import analyse
    from speakeasy.rating.key import Key
    from speakeasy.rating.report.markdown import markdown
    from speakeasy.rating.report.page import report_page
    from speakeasy.rating.report.tables import tables
    from speakeasy.rating.study import Study
    from speakeasy.rating.unblind import read_votes, require_closed

    found = Study.read(study)
    votes = read_votes(found)
    require_closed(found, votes)
    record = analyse(found, votes, Key.read(study))
    place = output_dir or study.resolve().with_name(f"{study.resolve().name}-report")
    _require_report(place)
    with (
        disk_errors(str(place), "choose another --output-dir"),
        new_directory(place, replace=True) as directory,
    ):
        write_text(directory / "report.md", markdown(record))
        write_text(directory / "report.html", report_page(record))
        write_json(directory / "report.json", record)
    if as_json:
        emit({"output_dir": str(place), **record})
        return
    for table in tables(record):
        console().print(_shown(table, console().width))
        say()
    for line in record["warnings"]:
        say(f"warning: {line}")
    for line in record["verdict"]:
        say(line)
    say(f"report: {place / 'report.html'}")


@command()
@STUDY
@click.option(
    "--output-dir", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New."
)
@json_option
def export(study: Path, output_dir: Path, as_json: bool) -> None:
    """Write out votes and recordings.

    votes.jsonl and votes.csv, the pairs, the recordings with a list of them, what the columns
    mean, and the sums of all files. While the study is open, models' names are left out. Recordings
    are personal data: voices can be recognised.

    \b
    Example:
      speakeasy rate export study --output-dir export
    """
    from dataclasses import asdict

    from speakeasy.files import disk_errors
    from speakeasy.rating.export import export as carry_out
    from speakeasy.rating.study import Study

    with disk_errors(str(output_dir), "choose another --output-dir"):
        done = carry_out(Study.read(study), output_dir)
    if as_json:
        emit({"output_dir": str(output_dir), **asdict(done)})
        return
    names = "without models' names: the study is open" if done.blind else "with models' names"
    say(f"{output_dir}: {done.votes:,} votes, {done.recordings:,} recordings, {names}")
    say(f"hash: {done.hash}")


@command()
@STUDY
@click.option(
    "--output-dir", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New."
)
@click.option(
    "--format",
    "format",
    type=click.Choice(["trl", "mlx-lm-lora"]),
    default="trl",
    show_default=True,
    help="Which trainer is to read it.",
)
@click.option(
    "--min-votes", type=click.IntRange(min=1), default=2, show_default=True,
    help="Votes that a pair needs.",
)  # fmt: skip
@click.option(
    "--min-share", type=click.FloatRange(0.5, 1), default=0.75, show_default=True,
    help="Share of them that must be for the better answer.",
)  # fmt: skip
@click.option(
    "--valid-share", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True,
    help="Share of the prompts that go to valid.jsonl.",
)  # fmt: skip
@json_option
def preferences(
    study: Path,
    output_dir: Path,
    format: str,
    min_votes: int,
    min_share: float,
    valid_share: float,
    as_json: bool,
) -> None:
    """Turn agreed votes into pairs for preference training.

    Only once the study is closed, and only where people agreed. Gold items, repeats and raters
    whom the rules leave out do not count. The same prompt is never both in train.jsonl and in
    valid.jsonl. mlx-lm-lora reads one user turn and a system message: pairs with earlier turns are
    left out there.

    \b
    Examples:
      speakeasy rate preferences study --output-dir preferences
      speakeasy rate preferences study --output-dir preferences --format mlx-lm-lora
    """
    from dataclasses import asdict

    from speakeasy.files import disk_errors
    from speakeasy.rating.preferences import Format, write_preferences
    from speakeasy.rating.study import Study

    assert format in get_args(Format)
    with disk_errors(str(output_dir), "choose another --output-dir"):
        done = write_preferences(
            Study.read(study),
            output_dir,
            format=format,  # type: ignore[arg-type]
            min_votes=min_votes,
            min_share=min_share,
            valid_share=valid_share,
        )
    if as_json:
        emit({"output_dir": str(output_dir), **asdict(done)})
        return
    turns = f", {done.turns:,} have turns that the format cannot hold" if done.turns else ""
    say(
        f"{output_dir}: {done.train:,} pairs to train on, {done.valid:,} to validate on, of "
        f"{done.judged:,} judged; {done.few:,} had too few votes, on {done.split:,} people did not "
        f"agree{turns}"
    )


def _require_report(place: Path) -> None:
    """Nothing is replaced but a report."""
    from speakeasy.errors import UsageError
    from speakeasy.files import occupied

    if occupied(place) and not (place / "report.json").is_file():
        raise UsageError(f"--output-dir {place}: holds something else; choose another directory")


def _shown(table: Table, width: int) -> object:
    from rich import box
    from rich.table import Table as Shown
    from rich.text import Text

    shown = Shown(
        title=table.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
        pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for place, wide in enumerate(_widths(table, width - 2 * len(table.columns))):
        shown.add_column(
            Text(table.columns[place]),
            justify="right" if place else "left",
            overflow="fold",
            width=wide,
        )
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def _widths(table: Table, room: int) -> list[int]:
    """Columns as wide as their longest words, then as their cells as far as there is room.

    Only the first column's words may be cut: they are names, which can be of any length. Rich
    shrinks the widest columns whatever is in them.
    """
    from rich.cells import cell_len

    columns = list(zip(table.columns, *table.rows, strict=True))
    widths = [
        max(cell_len(word) for cell in column for word in cell.split() or [""])
        for column in columns
    ]
    widths[0] = min(widths[0], _NAMES)
    for place in (*range(1, len(columns)), 0):
        wanted = max(map(cell_len, columns[place])) - widths[place]
        widths[place] += max(0, min(wanted, room - sum(widths)))
    return widths

"""``speakeasy compare``: two or more runs side by side, with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, console, emit, json_option, progress, say
from speakeasy.cli.evaluation_options import evaluation_options, plan_of

if TYPE_CHECKING:
    from rich.table import Table

    from speakeasy.evaluation.tables import Row
    from speakeasy.training.run import Record

_WORDS, _FIGURE = 26, 18
"""Columns of the terminal that labels, and figures of a model, should have."""


@command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--base",
    metavar="MODEL",
    help="The model before any training: starter, a directory, a Hub id or an evaluation.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Directory of the comparison; one that was made before is brought up to date.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="TEXT",
    help="Name of a RUN for people; one for each, in their order.",
)
@evaluation_options
@json_option
def compare(
    runs: tuple[Path, ...],
    base: str | None,
    output_dir: Path,
    labels: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Put runs side by side and draw the verdict.

    A RUN is the directory of a run, which is evaluated first, or one that 'speakeasy evaluate'
    made. All are scored on the same texts and asked the same prompts: those of the first, unless
    options say what. The result is the guide's table and more, as comparison.json, Markdown and
    one HTML page; and a verdict in words, which says "not distinguishable" where it is so.

    \b
    Examples:
      speakeasy compare runs/lora runs/full --base starter --output-dir comparison
      speakeasy compare evaluations/a evaluations/b --output-dir comparison --json
    """
    from speakeasy.evaluation.compare import compare as carry_out

    plan = plan_of(options | {"report_to": ()})
    comparison = carry_out(
        runs,
        output_dir,
        base=base,
        labels=labels,
        plan=plan,
        report_to=options["report_to"],
        say=say,
        bar=progress,
    )
    if as_json:
        emit({"output_dir": str(output_dir), **comparison})
        return
    show(comparison)
    say(f"report: {output_dir / 'report.html'}")


def show_comparison(directory: Path) -> None:
    """Show a comparison that was made before."""
    from speakeasy.evaluation.compare import read_comparison

    show(read_comparison(directory))


def show(comparison: Record) -> None:
    """The tables, then the verdict."""
    from speakeasy.evaluation.tables import grouped_rows, guide_rows

    console().print(_table("the guide's table", comparison, guide_rows(comparison)))
    for heading, rows in grouped_rows(comparison):
        console().print(_table(heading, comparison, rows))
    for line in comparison["verdict"]["lines"]:
        say(line)


def _table(title: str, comparison: Record, rows: Sequence[Row]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    # Words wrap before intervals do, as long as that leaves room for the words.
    roomy = console().width >= _WORDS + _FIGURE * len(comparison["runs"])
    table.add_column("", overflow="fold", min_width=_WORDS - 2 if roomy else None)
    for run in comparison["runs"]:
        table.add_column(Text(run["name"], overflow="fold"), justify="right", no_wrap=roomy)
    for row in rows:
        cells = [
            f"{cell.text}\n{cell.interval}" if cell.interval else cell.text for cell in row.cells
        ]
        label = Text.assemble(row.label, ("\n" + (row.note or row.aim), "dim"))
        table.add_row(label, *map(Text, cells))
    return table

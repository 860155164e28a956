"""What ``speakeasy run`` shows: the plan with its costs, and what the stages came to."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakeasy.cli.common import console, say
from speakeasy.evaluation.tables import duration

if TYPE_CHECKING:
    from rich.table import Table

    from speakeasy.workflow.costs import Cost
    from speakeasy.workflow.execute import Outcome, Standing
    from speakeasy.workflow.recipe import Stage

_UNKNOWN = "?"


def plan_table(found: Iterable[tuple[Stage, Standing, Cost]]) -> Table:
    """Every stage: what would be done about it, and what that takes."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="plan", title_justify="left")
    for name in ("stage", "kind", "to do"):
        table.add_column(name)
    for name in ("time", "memory", "disk"):
        table.add_column(name, justify="right")
    for stage, standing, cost in found:
        figures = ("", "", "") if standing.action == "skip" else _figures(cost)
        doing = Text(standing.action if standing.action == "run" else standing.reason)
        table.add_row(stage.name, stage.kind, doing, *figures)
    return table


def totals(whole: Cost) -> str:
    """What is left to be done, in a line."""
    time, memory, disk = _figures(whole)
    line = f"in all: time about {time} (within a factor of two), memory {memory}, disk {disk}"
    return f"{line}; {whole.how}" if whole.how else line


def _figures(cost: Cost) -> tuple[str, str, str]:
    seconds = _UNKNOWN if cost.seconds is None else duration(cost.seconds)
    return seconds, _size(cost.memory_bytes), _size(cost.disk_bytes)


def _size(count: int | None) -> str:
    if count is None:
        return _UNKNOWN
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def show(outcomes: Sequence[Outcome]) -> None:
    """What every stage came to, then the comparison, then where everything lies."""
    from speakeasy.cli.summary import summary_table

    last = {outcome.stage.kind: outcome for outcome in outcomes}
    for outcome in outcomes:
        if outcome.stage.kind in ("train", "pretrain"):
            say()
            console().print(summary_table(outcome.result))
        elif outcome.stage.kind == "evaluate" and "compare" not in last:
            _show_evaluation(outcome.directory)
    for outcome in outcomes:
        if outcome.stage.kind == "compare":
            say()
            _show_comparison(outcome.directory)
    say()
    for outcome in outcomes:
        say(f"{outcome.stage.name}: {outcome.directory}  ({duration(outcome.seconds)})")
        for line in _next(outcome.stage.kind, outcome.directory, outcome.result):
            say(f"  {line}")


def _show_evaluation(directory: Path) -> None:
    from speakeasy.cli.evaluate import metrics_table
    from speakeasy.evaluation.result import Evaluation

    say()
    console().print(metrics_table(Evaluation.read(directory)))


def _show_comparison(directory: Path) -> None:
    from speakeasy.cli.compare import show_comparison

    show_comparison(directory)


def _next(kind: str, directory: Path, result: dict[str, Any]) -> list[str]:
    """What can be done with what a stage left."""
    if kind == "train":
        return [
            f"adapter: {result['adapter']}",
            f"talk with it: speakeasy chat --run {shlex.quote(str(directory))}",
        ]
    if kind == "compare":
        return [f"report: {directory / 'report.html'}"]
    if kind == "study":
        items = result["plan"]["items"]
        return [
            f"{items:,} pairs to judge; ask people: speakeasy rate invite "
            f"{shlex.quote(str(directory))}"
        ]
    return []

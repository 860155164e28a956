"""``speakeasy run``: a whole workflow from a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, console, emit, json_option, progress, say

if TYPE_CHECKING:
    from speakeasy.training.loop import Watcher
    from speakeasy.training.run import Run
    from speakeasy.training.session import Session
    from speakeasy.workflow.execute import Outcome
    from speakeasy.workflow.recipe import Recipe


@command()
@click.argument("recipe")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the stages' directories go.  [default: runs/ and the recipe's name]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
def run(recipe: str, output_dir: Path | None, dry_run: bool, as_json: bool) -> None:
    """Carry out a recipe, stage by stage.

    RECIPE is a TOML file, or the name of a packaged one: demo. Each stage has a directory of its
    own. Typed again, the command passes over what is done, goes on with what was interrupted,
    and does again what has changed.
    """
    from speakeasy.workflow.recipe import load_recipe

    found = load_recipe(recipe)
    root = output_dir or Path("runs") / found.name
    say(f"{found.name}: {found.description}" if found.description else found.name)
    say(f"output: {root}")
    if dry_run:
        _dry_run(found, root, as_json)
        return
    from speakeasy.workflow.execute import carry_out

    outcomes = list(carry_out(found, root, Terminal()))
    if as_json:
        emit(_record(found, root, outcomes))
    else:
        _show(outcomes)


class Terminal:
    """A ``workflow.stages.Follower`` for people: lines and progress bars on stderr."""

    def say(self, line: str) -> None:
        """A line."""
        say(line)

    def planned(self, session: Session) -> None:
        """What is about to be trained."""
        from speakeasy.cli.training import show_preflight

        show_preflight(session)

    @contextmanager
    def training(self, session: Session, run: Run) -> Iterator[Watcher]:
        """Bars or lines, and the trackers that the plan asks for."""
        from speakeasy.cli.watch import Watchers, for_this_output
        from speakeasy.training.trackers import open_trackers

        with (
            open_trackers(session.config.report_to, run, say) as trackers,
            for_this_output() as watcher,
        ):
            yield Watchers(watcher, *trackers)

    def counting(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A bar."""
        return progress(what, total)


def _dry_run(recipe: Recipe, root: Path, as_json: bool) -> None:
    from speakeasy.workflow.execute import standings

    found = list(standings(recipe, root))
    for number, (stage, standing) in enumerate(found, 1):
        say(f"stage {number} of {len(found)}, {stage.name}: {standing.action} ({standing.reason})")
    if as_json:
        stages = [
            {"name": stage.name, "kind": stage.kind, "action": standing.action,
             "reason": standing.reason, "directory": str(root / stage.name)}
            for stage, standing in found
        ]  # fmt: skip
        emit({"recipe": recipe.source, "output_dir": str(root), "stages": stages})


def _record(recipe: Recipe, root: Path, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "recipe": recipe.source,
        "output_dir": str(root),
        "seconds": sum(outcome.seconds for outcome in outcomes),
        "stages": [
            {
                "name": outcome.stage.name,
                "kind": outcome.stage.kind,
                "action": outcome.action,
                "directory": str(outcome.directory),
                "seconds": outcome.seconds,
                "result": outcome.result,
            }
            for outcome in outcomes
        ],
    }


def _show(outcomes: list[Outcome]) -> None:
    """The result of every stage, then where everything lies."""
    from speakeasy.cli.summary import summary_table

    for outcome in outcomes:
        say()
        if outcome.stage.kind == "train":
            console().print(summary_table(outcome.result))
        else:
            console().print(_answers_table(outcome.result))
    say()
    for outcome in outcomes:
        say(f"{outcome.stage.name}: {outcome.directory}")
        if outcome.stage.kind == "train":
            say(f"  adapter: {outcome.result['adapter']}")
            say(f"  talk with it: speakeasy chat --run {outcome.directory}")


def _answers_table(result: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="the same prompts, before and after", show_lines=True)
    for name in ("prompt", "before", "after"):
        table.add_column(name, ratio=1)
    for answer in result["answers"]:
        # Text, since an answer may hold square brackets, which rich reads as markup.
        table.add_row(*(Text(answer[side]) for side in ("prompt", "base", "trained")))
    return table

"""``speakeasy run``: a whole workflow from a recipe."""

from __future__ import annotations

import dataclasses
import shlex
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
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be done, and what time, memory and disk it would take; do nothing.",
)
@click.option(
    "--copy",
    "copy_to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the recipe to this new file, to be changed, and do nothing else.",
)
@json_option
def run(
    recipe: str, output_dir: Path | None, dry_run: bool, copy_to: Path | None, as_json: bool
) -> None:
    """Carry out a recipe, stage by stage.

    RECIPE is a TOML file, or the name of a packaged one: demo, catalan-spanish-1b,
    catalan-spanish-3b, catalan-spanish-8b-4bit. Each stage has a directory of its own. Typed
    again, the command passes over what is done, goes on with what was interrupted, and does again
    what has changed and what depends on it.

    \b
    Examples:
      speakeasy run demo --dry-run
      speakeasy run demo
      speakeasy run catalan-spanish-1b --copy mine.toml
    """
    from speakeasy.workflow.recipe import load_recipe

    found = load_recipe(recipe)
    if copy_to is not None:
        _copy(recipe, copy_to, as_json)
        return
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
        from speakeasy.cli.run_results import show

        show(outcomes)


def _copy(recipe: str, target: Path, as_json: bool) -> None:
    from speakeasy.errors import RunError
    from speakeasy.files import write_text
    from speakeasy.workflow.recipe import recipe_text

    if target.exists():
        raise RunError(f"--copy {target}: exists already; choose another name")
    write_text(target, recipe_text(recipe))
    if as_json:
        emit({"recipe": recipe, "copy": str(target)})
        return
    say(f"{target}: the recipe; relative paths in it start where it lies")
    say(f"carry it out: speakeasy run {shlex.quote(str(target))}")


class Terminal:
    """A ``workflow.stages.kind.Follower`` for people: lines and progress bars on stderr."""

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
    from speakeasy.cli.run_results import plan_table, totals
    from speakeasy.workflow.costs import Estimator, total
    from speakeasy.workflow.execute import standings

    estimator = Estimator()
    found = [(*pair, estimator.cost(pair[0])) for pair in standings(recipe, root)]
    whole = total([cost for _, standing, cost in found if standing.action != "skip"])
    if as_json:
        stages = [
            {
                "name": stage.name,
                "kind": stage.kind,
                "action": standing.action,
                "reason": standing.reason,
                "directory": str(root / stage.name),
                "estimate": dataclasses.asdict(cost),
            }
            for stage, standing, cost in found
        ]
        emit(
            {
                "recipe": recipe.source,
                "output_dir": str(root),
                "stages": stages,
                "estimate": dataclasses.asdict(whole),
            }
        )
        return
    console().print(plan_table(found))
    for stage, _, cost in found:
        say(f"{stage.name}: {cost.how}")
    say(totals(whole))


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

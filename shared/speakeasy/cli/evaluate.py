"""``speakeasy evaluate``: the figures of one model, with intervals, to a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, console, emit, json_option, progress, say
from speakeasy.cli.evaluation_options import evaluation_options, plan_of
from speakeasy.cli.speaker_options import model_options

if TYPE_CHECKING:
    from rich.table import Table

    from speakeasy.evaluation.result import Evaluation

_SHOWN = 3
"""Answers that the terminal shows."""


@command()
@model_options
@click.option("--name", metavar="TEXT", default="", help="What to call the model in tables.  "
              "[default: the directory's name]")  # fmt: skip
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Directory of the evaluation; must not hold anything yet.",
)
@evaluation_options
@json_option
def evaluate(
    model: str | None,
    adapter: Path | None,
    run: Path | None,
    name: str,
    output_dir: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a model and measure its answers.

    Held-out conversations, regional text and plain Spanish and Catalan are scored in bits a byte,
    which models with different tokenizers can be compared by. Answers to prompts are measured for
    how they speak: how near to people the density of regional words is, what is asked for, what
    is repeated, copied or said in another language. Of a pre-training run, --run evaluates the
    model.

    \b
    Examples:
      speakeasy evaluate --run runs/first --output-dir evaluations/first
      speakeasy evaluate --model starter --like evaluations/first \\
          --output-dir evaluations/base
    """
    from speakeasy.evaluation.evaluate import evaluate as carry_out

    plan = plan_of(
        options,
        model=model,
        adapter=adapter and str(adapter),
        run=run and str(run),
        name=name,
    )
    found = carry_out(plan, output_dir, say=say, bar=progress)
    if as_json:
        emit({"evaluation": str(output_dir), **found.record})
        return
    console().print(metrics_table(found))
    for answer in _some(found):
        say(f"[{answer['id']}] {answer['prompt']}")
        say(f"  {answer['answer'] or '(nothing)'}")
    say(f"evaluation: {output_dir}")


def metrics_table(evaluation: Evaluation) -> Table:
    """Every figure that could be had, with its interval and which way is better.

    Where near to people is better, their figure in the held-out conversations is said.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from speakeasy.dialect.variety import Variety
    from speakeasy.evaluation.metric_kinds import METRICS
    from speakeasy.evaluation.tables import figure_text, interval_text

    variety = Variety(**evaluation.record["variety"])
    people = evaluation.record["answers"]["human"]
    table = Table(title=Text(evaluation.name), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for heading in ("", "95% interval"):
        table.add_column(heading, justify="right")
    table.add_column("better")
    for name, metric in evaluation.metrics.items():
        if metric.value is None:
            continue
        interval, better = interval_text(name, metric.interval), metric.better or ""
        if metric.better == "near" and people.get(name) is not None:
            better = f"near {figure_text(name, people[name])}"
        label = METRICS[name].label_for(variety)
        table.add_row(label, figure_text(name, metric.value), interval, better)
    return table


def _some(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The first answer to some prompts, at even distances."""
    first = [answer for answer in evaluation.answers if not answer["sample"]]
    step = max(1, len(first) // _SHOWN)
    return first[::step][:_SHOWN]

"""``speakeasy rate new``: a blind study of models' answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, console, emit, json_option, progress, say
from speakeasy.cli.speaker_options import add, machine_options, option

if TYPE_CHECKING:
    from speakeasy.evaluation.result import Evaluation
    from speakeasy.rating.new import Made
    from speakeasy.rating.wish import Wish

_FLAGS = ("empty", "identical", "names-a-model", "cut-off", "long")
_SHOWN = 3
"""Prompts that are named with each flag."""


def _study_options(function: Any) -> Any:
    path = click.Path(path_type=Path)
    options = (
        option("--runs", multiple=True, metavar="RUN...",
               help="Runs, models or evaluations, two or more; the first one's prompts are asked."),
        option("--output-dir", type=path, required=True, metavar="DIR", help="The study's place."),
        option("--title", default="", metavar="TEXT", help="What raters are told that this is."),
        option("--contact", default="", metavar="TEXT", help="Whom raters can write to."),
        option("--region", default="", metavar="TEXT",
               help="Where the variety is spoken, as raters call it.  [default: the packaged]"),
        option("--raters", type=int, default=12, help="How many you want to ask."),
        option("--pairs", type=int, default=20, help="Pairs that each of them judges."),
        option("--repeats", type=int, default=1,
               help="Pairs that come a second time, the other side up."),
        option("--gold-share", type=float, default=0.1,
               help="Items with a known answer, as a share of the pairs."),
        option("--gold", default="packaged", metavar="FILE",
               help="Conversations that they are made of; packaged, or none."),
        option("--dialogues", default="packaged", metavar="FILE",
               help="Dialogues to read aloud, as [[audio]] tables of a .toml; packaged, or none."),
        option("--samples", type=int, default=1,
               help="Answers of each model to a prompt that are paired; 0 for all."),
        option("--max-chars", type=int, default=2000, help="Longest answer that is shown."),
        option("--keep", multiple=True, type=click.Choice(_FLAGS),
               help="Keep pairs with this flag, which would be left out."),
        option("--drop", multiple=True, type=click.Choice(_FLAGS),
               help="Leave out pairs with this flag, too."),
        option("--seed", type=click.IntRange(min=0), default=0,
               help="Of order, sides and lists."),
        option("--prompts", default="packaged", metavar="FILE",
               help="What runs without an evaluation are asked: .toml, .jsonl or .txt."),
        option("--lexicon", type=path, metavar="FILE",
               help="Lexicon of another variety, for such runs.  [default: packaged]"),
        option("--evaluations", type=path, metavar="DIR",
               help="Where their evaluations go.  [default: beside the study]"),
    )  # fmt: skip
    return add(options, machine_options(function))


@command()
@click.argument("more", nargs=-1, metavar="")
@_study_options
@click.option("--dry-run", is_flag=True, help="Only say what the study would be like.")
@json_option
def new(
    more: tuple[str, ...],
    runs: tuple[str, ...],
    output_dir: Path,
    evaluations: Path | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a blind study of two or more models' answers.

    Answers come from evaluations; what has none is evaluated first. They are paired prompt by
    prompt and checked: pairs that nobody can judge, or that give a model away, are left out and
    counted. Sides, order and lists are drawn; each rater sees either model on the left equally
    often, one pair twice, and about a tenth of pairs whose better answer is known. Who wrote what
    is kept in a file apart, which the server never reads. How large a preference the study can
    find is shown before anyone is asked.

    \b
    Examples:
      speakeasy rate new --runs runs/lora runs/full --output-dir study --contact me@example.org
      speakeasy rate new --runs evaluations/a evaluations/b --output-dir study --dry-run
    """
    from speakeasy.errors import UsageError
    from speakeasy.files import disk_errors, occupied
    from speakeasy.rating.new import make_study

    names = [*runs, *more]
    if len(names) < 2:
        raise UsageError(f"--runs: {len(names)} given; expected two or more")
    if occupied(output_dir) and not dry_run:
        raise UsageError(f"--output-dir {output_dir}: is not empty; choose another directory")
    wish = _wish(options)
    found = _evaluations(names, evaluations or output_dir.parent / "evaluations", options)
    with disk_errors(str(output_dir), "choose another --output-dir"):
        made = make_study(found, wish, None if dry_run else output_dir)
    if as_json:
        emit({"output_dir": None if dry_run else str(output_dir), **made.record()})
        return
    _show(made)
    if not dry_run:
        say(f"study: {output_dir}; key.json says whose the answers are: keep it to yourself")
        say(f"next: speakeasy rate invite {output_dir} -n {made.plan.raters}")


def _wish(options: dict[str, Any]) -> Wish:
    from speakeasy.rating.wish import Wish

    same = (
        "title", "contact", "region", "samples", "raters", "pairs", "repeats", "gold_share",
        "gold", "dialogues", "max_chars", "seed",
    )  # fmt: skip
    fields: dict[str, Any] = {name: options[name] for name in same}
    for name in ("keep", "drop"):
        fields[name] = tuple(each.replace("-", " ") for each in options[name])
    return Wish(**fields)


def _evaluations(names: list[str], folder: Path, options: dict[str, Any]) -> list[Evaluation]:
    """Of each name: read where it is one, else made."""
    from speakeasy.evaluation.result import Evaluation, is_evaluation

    if all(is_evaluation(Path(name)) for name in names):
        return [Evaluation.read(Path(name)) for name in names]
    from speakeasy.evaluation.making import Maker
    from speakeasy.evaluation.plan import EvaluationPlan

    same = ("backend", "precision", "use_4bit", "prompts")
    plan = EvaluationPlan(
        **{name: options[name] for name in same},
        lexicon=options["lexicon"] and str(options["lexicon"]),
        samples=max(1, options["samples"]),
    )
    maker = Maker(folder, plan, say, progress)

    def one(name: str) -> Evaluation:
        path = Path(name)
        if is_evaluation(path) or (path / "run.toml").is_file():
            return maker.of_run(path)
        return maker.of_model(name)

    return [one(name) for name in names]


def _show(made: Made) -> None:
    from rich import box
    from rich.table import Table

    from speakeasy.rating.power import PREFERENCES, SPREAD, TIES

    plan = made.plan
    say(
        f"{plan.items:,} pairs of answers, {plan.prompts:,} prompts; each of {plan.raters:,} "
        f"raters judges {plan.pairs:,} pairs, {plan.repeats:,} of them twice, and {plan.gold:,} "
        "gold items"
    )
    for flag, ids in made.flags.items():
        some = ", ".join(dict.fromkeys(ids[:_SHOWN])) + (", ..." if len(ids) > _SHOWN else "")
        say(f"{flag}: {len(ids):,} pairs ({some})")
    if made.dropped:
        say(f"left out: {made.dropped:,} pairs")
    for note in made.notes:
        say(note)
    table = Table(
        title="chance to find a preference that is there", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("raters", justify="right")
    for preference in PREFERENCES:
        table.add_column(f"{preference:.0%}", justify="right")
    for row in made.power:
        table.add_row(f"{row.raters:,}", *(f"{chance:.0%}" for chance in row.chances))
    console().print(table)
    say(
        f"(of decided votes; {TIES:.0%} ties, raters and prompts that differ by {SPREAD} in "
        "log-odds, tested at 5%)"
    )

"""``speakeasy vocab check``: what words cost a model, and what an expansion would save."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from speakeasy.cli.common import command, console, emit, json_option, model_option, progress, say
from speakeasy.cli.vocab_options import mode_option, words_options

if TYPE_CHECKING:
    from rich.table import Table

    from speakeasy.data.chat import Conversation
    from speakeasy.vocab.audit import Saving, WordCost
    from speakeasy.vocab.expand import Expansion, Mode

STARTER = "starter"


@command("check")
@model_option(default="starter")
@words_options
@click.option(
    "--phrases", is_flag=True, help="Plan one token for entries of several words as well."
)
@mode_option
@click.option(
    "--train-file",
    "train_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Say what the words would save on the answers of these conversations; 'starter' for the "
    "packaged ones.  May be given several times.",
)
@json_option
def check(
    model: str,
    words_file: Path | None,
    categories: str | None,
    lexicon: Literal["guide", "full"],
    phrases: bool,
    mode: Mode,
    train_files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Count the tokens of words, before and after an expansion.

    Each word is counted bare, after a space, capitalized, and both: to a tokenizer these are four
    words. 'After' is what 'expand' with the same options would make of it; nothing is written.

    \b
    Examples:
      speakeasy vocab check                                 starter model, the guide's words
      speakeasy vocab check --model meta-llama/Llama-3.2-1B --lexicon full
      speakeasy vocab check --train-file data/train.jsonl   is it worth a new vocabulary?
      speakeasy vocab check --words words.txt --train-file starter --json
    """
    from speakeasy.vocab.audit import audit_answers, audit_words
    from speakeasy.vocab.expand import plan_words
    from speakeasy.vocab.families import read_source
    from speakeasy.vocab.words import choose_words
    from speakeasy.weights.hub import resolve_model

    words = choose_words(words_file, categories, lexicon)
    conversations = _conversations(train_files)
    source = resolve_model(model, say=say)
    plan = plan_words(read_source(source.path), words, mode=mode, phrases=phrases)
    costs = audit_words(words, plan)
    saving = audit_answers(conversations, plan, bar=progress) if conversations else None
    if as_json:
        emit(_record(source.source, plan, costs, saving))
        return
    say(f"model: {source.source}")
    console().print(_table(costs))
    _say_summary(plan, costs)
    if saving is not None:
        _say_saving(saving, train_files)


def _conversations(files: Sequence[Path]) -> list[Conversation]:
    """The conversations of files; ``starter`` stands for the packaged ones."""
    from speakeasy.data.dataset import load_conversations, starter_files

    paths: list[Path] = []
    for file in files:
        packaged = str(file) == STARTER and not file.exists()
        paths.extend(starter_files() if packaged else [file])
    return load_conversations(paths) if paths else []


def _record(
    model: str, plan: Expansion, costs: Sequence[WordCost], saving: Saving | None
) -> dict[str, Any]:
    from speakeasy.vocab.audit import POSITIONS, WORTH_SAVING, means

    before, after = means(costs)
    return {
        "model": model,
        "family": plan.family,
        "mode": plan.mode,
        "mode_reason": plan.reason,
        "new_entries": len(plan.rows),
        "words": [
            {
                "word": cost.word.text,
                "category": cost.word.category,
                "before": dict(zip(POSITIONS, cost.before, strict=True)),
                "after": dict(zip(POSITIONS, cost.after, strict=True)),
            }
            for cost in costs
        ],
        "mean_before": dict(zip(POSITIONS, before, strict=True)),
        "mean_after": dict(zip(POSITIONS, after, strict=True)),
        "skipped": [{"form": item.form, "reason": item.reason} for item in plan.skipped],
        "saving": saving
        and {
            "answers": saving.answers,
            "tokens_before": saving.before,
            "tokens_after": saving.after,
            "share": saving.share,
            "new_tokens_used": saving.used,
            "new_entries_used": saving.entries_used,
            "worth_it": saving.is_worth_it,
            "threshold": WORTH_SAVING,
        },
    }


def _table(costs: Sequence[WordCost]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from speakeasy.vocab.audit import POSITIONS, means

    table = Table(title="tokens a word: before -> after", title_justify="left")
    table.add_column("word")
    for name in POSITIONS:
        table.add_column(name, justify="right")
    category = ""
    for cost in costs:
        if cost.word.category != category:
            category = cost.word.category
            table.add_section()
            table.add_row(Text(category, style="italic"))
        pairs = zip(cost.before, cost.after, strict=True)
        table.add_row(Text(cost.word.text), *(_change(*pair) for pair in pairs))
    table.add_section()
    pairs_of_means = zip(*means(costs), strict=True)
    table.add_row("mean", *(f"{old:.2f} -> {new:.2f}" for old, new in pairs_of_means))
    return table


def _change(before: int, after: int) -> str:
    return f"{before}" if before == after else f"{before} -> {after}"


def _say_summary(plan: Expansion, costs: Sequence[WordCost]) -> None:
    whole_before, whole_after = (
        sum(max(lengths) == 1 for lengths in table)
        for table in ([cost.before for cost in costs], [cost.after for cost in costs])
    )
    say(
        f"one token in all four places: {whole_before:,} of {len(costs):,} words before, "
        f"{whole_after:,} after, with {len(plan.rows):,} new entries (mode {plan.mode})"
    )
    refused: dict[str, list[str]] = {}
    for item in plan.skipped:
        if item.reason != "is one token already":
            refused.setdefault(item.reason, []).append(item.form)
    for reason, forms in list(refused.items())[:10]:
        more = f" (and {len(forms) - 1:,} more)" if len(forms) > 1 else ""
        say(f"no entry for {forms[0]!r}{more}: {reason}")
    if len(refused) > 10:
        say(f"... {len(refused) - 10:,} more reasons; --json has all")


def _say_saving(saving: Saving, files: Sequence[Path]) -> None:
    from speakeasy.vocab.audit import WORTH_SAVING

    say(
        f"{saving.answers:,} answers: {saving.before:,} tokens before, {saving.after:,} after: "
        f"{saving.share:.1%} saved; new tokens occur {saving.used:,} times"
    )
    if saving.is_worth_it:
        say("Verdict: worth trying. The new rows must still be paid for with 'pretrain'.")
        return
    say(
        f"Verdict: not worth a new vocabulary. Below {WORTH_SAVING:.0%}, the new rows cost more "
        "training than they save. See what would save more:"
    )
    named = shlex.join(str(file) for file in files if str(file) != STARTER)
    say(f"  speakeasy vocab suggest{' ' + named if named else ''} --output words.txt")

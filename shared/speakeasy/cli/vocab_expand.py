"""``speakeasy vocab expand``: words into a model's vocabulary, and the proof of no harm."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from speakeasy.cli.common import command, console, emit, json_option, model_option, progress, say
from speakeasy.cli.vocab_options import mode_option, words_options
from speakeasy.errors import UsageError

if TYPE_CHECKING:
    from speakeasy.vocab.expand import Expansion, Mode
    from speakeasy.vocab.families import Source
    from speakeasy.vocab.verify import Evidence
    from speakeasy.vocab.words import Word
    from speakeasy.weights.rows import Init

_SHOWN = 100
"""Rows of the table; the rest is in the record."""


@command("expand")
@model_option(default="starter")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="New directory for the expanded model.",
)
@words_options
@click.option(
    "--corpus",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Add the forms of the words that occur in these texts too: inflected, in capitals, with "
    "punctuation glued on (¡Ostras).",
)
@click.option(
    "--phrases",
    is_flag=True,
    help="One token for entries of several words as well, for which the way the tokenizer cuts "
    "text must be changed.",
)
@click.option(
    "--init",
    type=click.Choice(["subword", "mean"]),
    default="subword",
    show_default=True,
    help="New rows: the mean of the old pieces' rows, or of all rows.",
)
@mode_option
@click.option(
    "--allow-collateral",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Accept up to N other words and sentences that would be encoded differently.",
)
@click.option("--dry-run", is_flag=True, help="Plan and examine; writes nothing.")
@json_option
def expand(
    model: str,
    output_dir: Path | None,
    words_file: Path | None,
    categories: str | None,
    lexicon: Literal["guide", "full"],
    corpus: tuple[Path, ...],
    phrases: bool,
    init: Init,
    mode: Mode,
    allow_collateral: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add words to a model's vocabulary, one token each.

    No other word may suffer: nothing is written unless all special tokens keep their ids, the
    50,000 commonest words of Spanish, Catalan and English decode to themselves and are encoded as
    before, and transformers and mlx-lm load the result with the same ids. The figures are in
    expansion.json beside the new model.

    \b
    Examples:
      speakeasy vocab expand --output-dir models/expanded      starter model, the guide's words
      speakeasy vocab expand --model meta-llama/Llama-3.2-1B --mode reserved \\
          --output-dir models/llama-catalan                    the model keeps its size
      speakeasy vocab expand --words mine.txt --phrases --dry-run

    The new rows are not trained yet; speakeasy pretrain does that.
    """
    from speakeasy.vocab.build import expand_model, require_room, require_words
    from speakeasy.vocab.expand import plan_words
    from speakeasy.vocab.families import read_source
    from speakeasy.vocab.verify import examine
    from speakeasy.vocab.words import choose_words
    from speakeasy.weights.hub import resolve_model

    if not dry_run:
        _require_free(output_dir)
    words = choose_words(words_file, categories, lexicon)
    source = resolve_model(model, say=say)
    say(f"model: {source.source}")
    tokenizer = read_source(source.path)
    if corpus:
        words = _with_forms_of(corpus, words, tokenizer)
    plan = plan_words(tokenizer, words, mode=mode, phrases=phrases)
    require_words(plan)
    _show_plan(plan)
    if dry_run:
        require_room(source.path, plan, init)
        evidence = examine(plan, bar=progress)
        _report_dry_run(plan, evidence, allow_collateral, as_json)
        return
    assert output_dir is not None
    record = expand_model(
        source,
        output_dir,
        plan,
        init=init,
        allow_collateral=allow_collateral,
        say=say,
        bar=progress,
    )
    if as_json:
        emit({"output_dir": str(output_dir), **record})
        return
    _say_gate(record["gate"])
    for library, found in record["gate"]["loaded_by"].items():
        _say_loader(library, found)
    say(f"{output_dir}: the expanded model; all figures in {output_dir / 'expansion.json'}")
    say(f"train its new rows: speakeasy pretrain --model {shlex.quote(str(output_dir))}")


def _require_free(output_dir: Path | None) -> None:
    from speakeasy.errors import RunError
    from speakeasy.files import occupied

    if output_dir is None:
        raise UsageError("--output-dir: missing; name a new directory for the expanded model")
    if occupied(output_dir):
        raise RunError(
            f"--output-dir {output_dir}: already exists and is not empty; choose another directory"
        )


def _with_forms_of(corpus: Sequence[Path], words: Sequence[Word], tokenizer: Source) -> list[Word]:
    """The words with those of their other forms that occur in files of text or conversations."""
    from speakeasy.vocab.material import find_material, running_texts
    from speakeasy.vocab.mining import count_forms
    from speakeasy.vocab.words import forms_in_corpus

    material = find_material(corpus)
    say(f"corpus: counting the forms in {len(material.files):,} files")
    return forms_in_corpus(words, count_forms(tokenizer, running_texts(material)))


def _show_plan(plan: Expansion) -> None:
    from rich.table import Table

    say(f"{len(plan.added):,} new entries; mode {plan.mode}: {plan.reason}")
    table = Table("form", "before", "tokens", "now", "id")
    for token in plan.added[:_SHOWN]:
        pieces = "|".join(plan.old.decode([piece]) for piece in token.pieces)
        table.add_row(
            _visible(token.form), _visible(pieces), str(len(token.pieces)), "1", str(token.id)
        )
    console().print(table)
    if len(plan.added) > _SHOWN:
        say(f"... and {len(plan.added) - _SHOWN:,} more; --json and expansion.json have all")
    if plan.steps:
        say(f"{len(plan.steps):,} more entries that the merges need on the way")
    reasons: dict[str, list[str]] = {}
    for item in plan.skipped:
        reasons.setdefault(item.reason, []).append(item.form)
    for reason, forms in reasons.items():
        some = ", ".join(_visible(form) for form in forms[:8]) + (", ..." if len(forms) > 8 else "")
        say(f"left out, {reason}: {some}" if len(forms) > 1 else f"left out: {some} {reason}")


def _visible(text: str) -> str:
    """Spaces as a sign that is seen."""
    return text.replace(" ", "␣")


def _report_dry_run(
    plan: Expansion, evidence: Evidence, allow_collateral: int, as_json: bool
) -> None:
    from speakeasy.errors import ModelError
    from speakeasy.vocab.build import gate_record, plan_record
    from speakeasy.vocab.verify import require_no_harm

    refusal = None
    try:
        require_no_harm(evidence, allow_collateral=allow_collateral)
    except ModelError as error:
        refusal = str(error)
    gate = gate_record(evidence, allow_collateral)
    if as_json:
        emit({**plan_record(plan), "gate": gate, "refused": refusal})
        return
    _say_gate(gate)
    say(f"would be refused: {refusal}" if refusal else "would be written: the gate is passed")


def _say_gate(gate: dict[str, Any]) -> None:
    words, texts = gate["words"], gate["sentences"]
    say(
        f"kept: {gate['old_entries_kept']:,} entries and {gate['special_tokens_kept']:,} special "
        "tokens have the ids that they had"
    )
    say(
        f"words: {words['texts']:,} (es, ca, en; bare and after a space): "
        f"{words['with_an_added_word']:,} with an added word, {words['collateral_words']:,} others "
        f"changed, {len(words['round_trip_failures']):,} round-trip failures"
    )
    say(
        f"sentences: {texts['texts']:,}: {texts['with_an_added_word']:,} with an added word, "
        f"{texts['collateral_texts']:,} others changed, {len(texts['round_trip_failures']):,} "
        f"round-trip failures; {texts['tokens_before']:,} -> {texts['tokens_after']:,} tokens"
    )
    if texts["changed_by_phrases"]:
        say(
            f"phrases: they are one token now in {texts['changed_by_phrases']:,} of the sentences; "
            "the tokenizer cuts text by a pattern of its own, which converters (llama.cpp) may "
            "not know"
        )
    if disturbed := len(words["of_these_disturbed"]) + len(texts["of_these_disturbed"]):
        say(f"disturbed: in {disturbed:,} texts with an added word, tokens beside it changed, too")
    for change in [*words["collateral"], *texts["collateral"]][:10]:
        say(
            f"  changed: {_visible(change['text'])}: {'|'.join(change['before'])} -> "
            f"{'|'.join(change['after'])}"
        )


def _say_loader(library: str, found: dict[str, Any]) -> None:
    if "not_checked" in found:
        say(f"{library}: not checked ({found['not_checked']})")
    else:
        say(
            f"{library} {found['version']}: loads it, with the same ids for "
            f"{found['texts_with_the_same_ids']:,} texts"
        )

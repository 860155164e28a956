"""``speakeasy vocab suggest``: the entries that would save most tokens on a user's own text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, console, emit, json_option, model_option, progress, say

if TYPE_CHECKING:
    from rich.table import Table

    from speakeasy.vocab.suggest import Suggestion, Suggestions

_SHOWN = 30
_BAR = 30  # characters of the curve's longest bar


@command("suggest")
@click.argument("corpus", nargs=-1, type=click.Path(path_type=Path), metavar="[CORPUS]...")
@model_option(default="starter")
@click.option("--entries", type=click.IntRange(min=1), help="How many.  [default: 300]")
@click.option(
    "--min-tokens",
    type=click.IntRange(min=2),
    help="Leave out forms of fewer tokens.  [default: 4, or 2 where --entries is given]",
)
@click.option(
    "--min-count",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Leave out forms that occur less often.",
)
@click.option(
    "--distinctive",
    is_flag=True,
    help="Prefer words that are more frequent here than in general Spanish.",
)
@click.option(
    "--eval-fraction",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of the conversations, and of the texts, that the words are tried on.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed holds out others.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the file of words that 'check' and 'expand' take as --words.",
)
@click.option("--force", is_flag=True, help="Overwrite --output.")
@json_option
def suggest(
    corpus: tuple[Path, ...],
    model: str,
    entries: int | None,
    min_tokens: int | None,
    min_count: int,
    distinctive: bool,
    eval_fraction: float,
    seed: int,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find the words that would save most tokens.

    A CORPUS is text (.txt), a corpus that 'speakeasy corpus build' made, conversations in any
    format that 'train' reads, of which the answers count, or a directory of these. Without one,
    the packaged conversations and texts are taken.
    A share is held out, and what the words save there is what they can be expected to save.
    Review the file that --output writes: delete lines, add words of your own.

    \b
    Examples:
      speakeasy vocab suggest
      speakeasy vocab suggest data/train.jsonl corpus/ --entries 1000 --output words.txt
      speakeasy vocab suggest texts/ --distinctive --model meta-llama/Llama-3.2-1B
    """
    from speakeasy.vocab.families import read_source
    from speakeasy.vocab.material import answers, documents, find_material, starter_material
    from speakeasy.vocab.suggest import DEFAULT_ENTRIES, DEFAULT_MIN_TOKENS, count_parts, tagged
    from speakeasy.vocab.suggest import suggest as rank
    from speakeasy.weights.hub import resolve_model

    _require_target(output, corpus, force)
    material = find_material(corpus) if corpus else starter_material()
    said = answers(material, eval_fraction, seed)
    source = resolve_model(model, say=say)
    tokenizer = read_source(source.path)
    total = sum(len(part.text.encode()) for part in said) + material.text_bytes
    with progress("counting", total, "bytes") as advance:
        stream = tagged(said, documents(material, eval_fraction, seed))
        counts = count_parts(tokenizer, stream, advance)
        advance(total - counts.bytes)  # headings and line ends
    min_tokens = min_tokens or (2 if entries else DEFAULT_MIN_TOKENS)
    found = rank(
        tokenizer,
        counts,
        entries=entries or DEFAULT_ENTRIES,
        min_count=min_count,
        min_tokens=min_tokens,
        distinctive=distinctive,
    )
    if output is not None:
        _write(output, model, found, distinctive)
    if as_json:
        facts = {
            "model": source.source,
            "files": [str(file) for file in material.files],
            "starter": not corpus,
            "distinctive": distinctive,
            "min_count": min_count,
            "min_tokens": min_tokens,
            "eval_fraction": eval_fraction,
            "seed": seed,
            "output": str(output) if output else None,
        }
        emit({**facts, **_record(found)})
        return
    if not corpus:
        say("No CORPUS given: taking the conversations and texts that come with speakeasy.")
    say(f"model: {source.source}")
    _show(found)
    if output is not None:
        say(f"{output}: {len(found.entries):,} forms; review it, then")
        say(f"  speakeasy vocab expand --words {shlex.quote(str(output))} --output-dir DIR")


def _require_target(output: Path | None, corpus: tuple[Path, ...], force: bool) -> None:
    from speakeasy.errors import UsageError

    if output is None:
        return
    if output.is_dir():
        raise UsageError(f"--output {output}: is a directory; expected a file's name")
    if output.resolve() in {path.resolve() for path in corpus}:
        raise UsageError(f"--output {output}: is read as well; choose another file")
    if output.exists() and not force:
        raise UsageError(f"--output {output}: exists; choose another name, or add --force")


def _write(output: Path, model: str, found: Suggestions, distinctive: bool) -> None:
    from speakeasy.files import disk_errors
    from speakeasy.vocab.words import write_words

    order = "tokens saved, weighted against general Spanish" if distinctive else "tokens saved"
    kind = _first_kind(found)
    heading = [
        f"Suggested by 'speakeasy vocab suggest' for {model}; by {order}.",
        "Delete what should not become a token, add words of your own (without quotation marks).",
        "Behind each form: how often it occurs, how many tokens it is now and how many it would",
        "save there" + (f"; share of held-out {kind} saved by all down to it." if kind else "."),
    ]
    with disk_errors(f"{output}", "nothing was changed; free some space or choose another place"):
        write_words(output, ((item.form, _comment(item)) for item in found.entries), heading)


def _comment(item: Suggestion) -> str:
    text = f"count {item.count:,}, {item.pieces} tokens, saves {item.saves:,}"
    if item.times_spanish is not None:
        text += f", {item.times_spanish:,.1f} times as frequent as in Spanish"
    return text + "".join(f"; {share:.2%}" for share in list(item.held_out.values())[:1])


def _record(found: Suggestions) -> dict[str, Any]:
    return {
        "mode": found.plan.mode,
        "mode_reason": found.plan.reason,
        "candidates": found.candidates,
        "held_out_tokens": dict(found.held_out_tokens),
        "curve": [{"entries": number, **share} for number, share in found.curve.items()],
        "counts_given_up": found.given_up,
        "skipped": [{"form": form, "reason": why} for form, why in found.skipped.items()],
        "entries": [
            {
                "form": item.form,
                "count": item.count,
                "tokens": item.pieces,
                "saves": item.saves,
                "times_spanish": item.times_spanish,
                "held_out": dict(item.held_out),
            }
            for item in found.entries
        ],
    }


def _first_kind(found: Suggestions) -> str | None:
    return next(iter(found.held_out_tokens), None)


def _show(found: Suggestions) -> None:
    console().print(_forms_table(found))
    if len(found.entries) > _SHOWN:
        say(f"... and {len(found.entries) - _SHOWN:,} more; --output and --json have all")
    if found.held_out_tokens:
        console().print(_curve_table(found))
    else:
        say("Too little text to hold any out: what these forms save elsewhere is not known.")
    say(f"{found.candidates:,} forms could have an entry; mode {found.plan.mode}")
    if found.skipped:
        form, reason = next(iter(found.skipped.items()))
        more = f" (and {len(found.skipped) - 1:,} more)" if len(found.skipped) > 1 else ""
        say(f"no entry for {form!r}{more}: {reason}")
    if found.given_up:
        say("more than a million distinct forms: counts of the rarest are too small")


def _forms_table(found: Suggestions) -> Table:
    from rich.table import Table
    from rich.text import Text

    distinctive = any(item.times_spanish is not None for item in found.entries)
    kind = _first_kind(found)
    table = Table(title=f"the first of {len(found.entries):,} forms", title_justify="left")
    table.add_column("form")
    names = ["count", "tokens", "saves"]
    names += ["times Spanish"] if distinctive else []
    names += [f"held-out {kind} saved"] if kind else []
    for name in names:
        table.add_column(name, justify="right")
    for item in found.entries[:_SHOWN]:
        cells = [f"{item.count:,}", f"{item.pieces}", f"{item.saves:,}"]
        if item.times_spanish is not None:
            cells.append(f"{item.times_spanish:,.1f}")
        cells += [f"{share:.2%}" for share in list(item.held_out.values())[:1]]
        table.add_row(Text(item.form.replace(" ", "␣")), *cells)
    return table


def _curve_table(found: Suggestions) -> Table:
    from rich.table import Table

    kinds = list(found.held_out_tokens)
    top = max(share[kinds[0]] for share in found.curve.values()) or 1.0
    table = Table(title="saved on text held out", title_justify="left")
    table.add_column("entries", justify="right")
    for kind in kinds:
        table.add_column(kind, justify="right")
    table.add_column("")
    for number, shares in found.curve.items():
        bar = "█" * round(_BAR * shares[kinds[0]] / top)
        table.add_row(f"{number:,}", *(f"{shares[kind]:.1%}" for kind in kinds), bar)
    return table

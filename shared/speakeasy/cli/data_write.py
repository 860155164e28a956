"""``speakeasy data import`` and ``split``: the commands that write conversation files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, emit, json_option, say
from speakeasy.cli.data_files import files_argument, format_option, read_files
from speakeasy.cli.data_text import files_json, print_table, reject_json, say_files

if TYPE_CHECKING:
    from speakeasy.data.formats import Format


@command("import")
@files_argument(required=True)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="JSONL to write.")
@click.option(
    "--rejects",
    type=click.Path(path_type=Path),
    help="Keep what is no conversation here, with origin, reason and raw text. Without it, one "
    "problem makes the import fail.",
)
@click.option("--nfc", is_flag=True, help="Bring messages into Unicode form NFC.")
@click.option("--force", is_flag=True, help="Overwrite --output and --rejects.")
@format_option
@json_option
def import_(
    files: tuple[Path, ...],
    output: Path,
    rejects: Path | None,
    nfc: bool,
    force: bool,
    format: Format | None,
    as_json: bool,
) -> None:
    """Convert files to the native format.

    Reads OpenAI messages, ShareGPT, Alpaca, prompt/completion and CSV. All other fields of a
    record are kept; 'id' and 'domain' are added, from the file's name, where they are missing.
    Either everything is written or nothing.

    \b
    Examples:
      speakeasy data import sharegpt.json --output data/chats.jsonl
      speakeasy data import raw/ --output all.jsonl --rejects rejects.jsonl --nfc
      speakeasy data import table.csv --output table.jsonl

    \b
    CSV has a header, and one conversation or one message a row:
      prompt,completion[,system][,...]
      conversation_id,role,content[,...]
    """
    from speakeasy.data.dataset import find_files, read_dataset, require_no_problem
    from speakeasy.errors import DataError
    from speakeasy.files import disk_errors, write_text

    _require_targets([("--output", output), ("--rejects", rejects)], find_files(files), force)
    dataset = read_dataset(files, format)
    problems = dataset.problems
    if rejects is None:
        require_no_problem(dataset, otherwise="--rejects FILE keeps such records apart")
    elif not dataset.conversations:
        raise DataError(f"{problems[0]} (and no record is sound; nothing was written)")
    conversations = dataset.conversations
    not_nfc = sum(not item.is_nfc for item in conversations)
    if nfc:
        conversations = [item.to_nfc() for item in conversations]
    with disk_errors(f"{output}", "nothing was changed; free some space or choose another place"):
        if rejects is not None:
            write_text(rejects, _lines(reject_json(problem) for problem in problems))
        write_text(output, _lines(item.to_record() for item in conversations))
    if as_json:
        emit(
            {
                "output": str(output),
                "conversations": len(conversations),
                "rejects": str(rejects) if rejects else None,
                "problems": len(problems),
                "not_nfc": not_nfc,
                "normalized": not_nfc if nfc else 0,
                "files": files_json(dataset),
            }
        )
        return
    say_files(dataset, is_starter=False)
    if not_nfc:
        say(f"{not_nfc:,} conversations were not NFC; " + ("now they are" if nfc else "see --nfc"))
    say(f"{output}: {len(conversations):,} conversations")
    if rejects is not None:
        say(f"{rejects}: {len(problems):,} rejected records")


@command("split")
@files_argument()
@click.option(
    "--output-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="New directory for train.jsonl and eval.jsonl.",
)
@click.option(
    "--by", default="domain", show_default=True, help="Field whose every value gives its share."
)
@click.option(
    "--eval-fraction", type=float, help="Share of conversations to hold out.  [default: 0.1]"
)
@click.option("--eval-count", type=int, help="Number of conversations to hold out instead.")
@click.option("--seed", default=0, show_default=True, help="Another seed holds out others.")
@format_option
@json_option
def split(
    files: tuple[Path, ...],
    output_dir: Path,
    by: str,
    eval_fraction: float | None,
    eval_count: int | None,
    seed: int,
    format: Format | None,
    as_json: bool,
) -> None:
    """Split into train.jsonl and eval.jsonl.

    Near duplicates always stay on one side.
    The same conversations and seed give the same split, in whatever order or files they come.
    Without a 'domain' field, a conversation's domain is the name of its file.

    \b
    Examples:
      speakeasy data split --output-dir data/starter
      speakeasy data split chats.jsonl --output-dir data/split --by register --eval-count 200
    """
    from speakeasy.data.dataset import require_no_problem
    from speakeasy.data.split import count_strata, hold_out
    from speakeasy.errors import UsageError
    from speakeasy.files import disk_errors, new_directory, write_text

    if eval_fraction is not None and eval_count is not None:
        raise UsageError("--eval-count: cannot be combined with --eval-fraction; give one of them")
    dataset, is_starter = read_files(files, format)
    require_no_problem(dataset)
    fraction = 0.1 if eval_fraction is None else eval_fraction
    train, held_out = hold_out(
        dataset.conversations, fraction=fraction, count=eval_count, seed=seed, by=by
    )
    with disk_errors(f"{output_dir}", "nothing was written"), new_directory(output_dir) as folder:
        write_text(folder / "train.jsonl", _lines(item.to_record() for item in train))
        write_text(folder / "eval.jsonl", _lines(item.to_record() for item in held_out))
    counts = {"train": count_strata(train, by), "eval": count_strata(held_out, by)}
    names = sorted({*counts["train"], *counts["eval"]})
    strata = {
        name: {part: counts[part].get(name, 0) for part in ("train", "eval")} for name in names
    }
    if as_json:
        emit(
            {
                "train_file": str(output_dir / "train.jsonl"),
                "eval_file": str(output_dir / "eval.jsonl"),
                "train": len(train),
                "eval": len(held_out),
                "by": by,
                "seed": seed,
                "strata": strata,
                "starter": is_starter,
            }
        )
        return
    say_files(dataset, is_starter)
    total = {"train": len(train), "eval": len(held_out)}
    print_table(
        [by, "train", "eval"],
        [
            [name, *(f"{number:,}" for number in row.values())]
            for name, row in [*strata.items(), ("all", total)]
        ],
    )
    say(f"{output_dir}: train.jsonl and eval.jsonl (seed {seed})")


def _require_targets(
    targets: Sequence[tuple[str, Path | None]], sources: Sequence[Path], force: bool
) -> None:
    """Refuse to overwrite, and ever to write over a source or twice to one file."""
    from speakeasy.errors import UsageError

    taken = {source.resolve() for source in sources}
    for option, path in targets:
        if path is None:
            continue
        if path.resolve() in taken:
            raise UsageError(f"{option} {path}: is read or written already; choose another file")
        if path.is_dir():
            raise UsageError(f"{option} {path}: is a directory; expected a file's name")
        if path.exists() and not force:
            raise UsageError(f"{option} {path}: exists; choose another name, or add --force")
        taken.add(path.resolve())


def _lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

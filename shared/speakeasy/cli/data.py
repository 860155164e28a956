"""``speakeasy data``: figures and problems of conversation files; the group of its commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from speakeasy.cli.common import command, emit, group, json_option, say
from speakeasy.cli.data_files import files_argument, format_option, read_files
from speakeasy.cli.data_text import (
    duplicates_json,
    duplicates_line,
    files_json,
    print_status,
    problem_json,
    say_files,
    say_some,
)
from speakeasy.cli.data_write import import_, split
from speakeasy.cli.preview import preview

if TYPE_CHECKING:
    from speakeasy.data.formats import Format


@group()
def data() -> None:
    """Check, convert and split conversations.

    A FILE holds conversations, one JSON object a line (or one JSON array, or CSV). A directory
    stands for all data files in it. With no FILE, the packaged starter data is taken.

    \b
    The native format:
      {"messages": [{"role": "user", "content": "Bon dia!"},
                    {"role": "assistant", "content": "Bon dia, nen!"}], "domain": "city"}

    \b
    From a pile of chats to training data:
      speakeasy data check chats.json
      speakeasy data import chats.json --output clean.jsonl --rejects rejects.jsonl
      speakeasy data status clean.jsonl
      speakeasy data split clean.jsonl --output-dir data/split
    """


@command("status")
@files_argument()
@format_option
@json_option
def status(files: tuple[Path, ...], format: Format | None, as_json: bool) -> None:
    """Say how much there is, of what, and whether it is enough.

    Counts of conversations, words and fields, lengths, duplicates, text that is not NFC, and the
    verdict against the recommended 1,000 to 10,000 conversations. Broken records are counted and
    left out; 'speakeasy data check' lists them.

    \b
    Examples:
      speakeasy data status
      speakeasy data status data/train.jsonl data/more/
    """
    from dataclasses import asdict

    from speakeasy.data.status import summarize

    dataset, is_starter = read_files(files, format)
    figures = summarize(dataset.conversations)
    if as_json:
        more = {
            "distinct": figures.distinct,
            "verdict": figures.verdict,
            "problems": len(dataset.problems),
            "files": files_json(dataset),
            "starter": is_starter,
        }
        emit({**asdict(figures), **more})
        return
    say_files(dataset, is_starter)
    print_status(figures)


@command("check")
@files_argument()
@format_option
@json_option
@click.pass_context
def check(
    context: click.Context, files: tuple[Path, ...], format: Format | None, as_json: bool
) -> None:
    """List every problem with its file and line.

    Exits with 1 if there is one.
    A conversation is fit for training when it is text only, has one system message at most (the
    first), then user and assistant in turn, and ends with the assistant. Files are UTF-8.
    Duplicates are listed too, but are no problem: 'split' keeps them on one side.

    \b
    Examples:
      speakeasy data check data/train.jsonl
      speakeasy data check --format sharegpt chats.txt --json
    """
    from speakeasy.data.duplicates import find_duplicates

    dataset, is_starter = read_files(files, format)
    groups = find_duplicates(dataset.conversations)
    if as_json:
        emit(
            {
                "ok": not dataset.problems,
                "conversations": len(dataset.conversations),
                "problems": [problem_json(problem) for problem in dataset.problems],
                "duplicates": [duplicates_json(group, dataset.conversations) for group in groups],
                "files": files_json(dataset),
                "starter": is_starter,
            }
        )
    else:
        say_files(dataset, is_starter)
        say_some([str(problem) for problem in dataset.problems], "problems")
        say_some([duplicates_line(group, dataset.conversations) for group in groups], "groups")
        problems = f"{len(dataset.problems):,} problems" if dataset.problems else "No problem"
        say(f"{problems} in {len(dataset.sources):,} file(s).")
    context.exit(1 if dataset.problems else 0)


for subcommand in (check, import_, preview, split, status):
    data.add_command(subcommand)

"""``speakeasy prompts``: what models are tried on, and what people record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speakeasy.cli.common import command, emit, group, json_option, say

if TYPE_CHECKING:
    from rich.table import Table

    from speakeasy.dialect.prompts import Prompt


@group()
def prompts() -> None:
    """List the evaluation prompts, and write dialogues to record."""


@command("list")
@click.option(
    "--prompts",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file of prompts: .toml, .jsonl or .txt.  [default: the packaged ones]",
)
@json_option
def list_prompts(source: Path | None, as_json: bool) -> None:
    """Show the evaluation prompts by category.

    These are what 'evaluate' and 'generate --prompts' ask a model. Control prompts call for plain
    standard Spanish. The table goes to the standard output.

    \b
    Examples:
      speakeasy prompts list
      speakeasy prompts list --prompts mine.toml --json
    """
    from speakeasy.dialect.prompts import packaged_prompts, read_prompts

    found = packaged_prompts() if source is None else read_prompts(source)
    if as_json:
        emit({"count": len(found), "prompts": [_record(prompt) for prompt in found]})
        return
    from rich.console import Console

    Console(highlight=False).print(_table(found))
    controls = sum(prompt.control for prompt in found)
    say(f"{len(found):,} prompts, {controls:,} of them controls")


@command("audio")
@click.option(
    "--prompts",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .toml file with [[audio]] tables.  [default: the packaged dialogues]",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where the two files go.  [default: here]",
)
@click.option("--force", is_flag=True, help="Overwrite files of the same names.")
@json_option
def audio(source: Path | None, output_dir: Path, force: bool, as_json: bool) -> None:
    """Write dialogues for native speakers to read aloud.

    audio_recording_prompts.md is for the screen, audio_recording_prompts.html for the printer
    (A4). Both say how to record; what to listen for stands at the end, on pages of its own, because
    it is not for those who read.

    \b
    Examples:
      speakeasy prompts audio
      speakeasy prompts audio --prompts mine.toml --output-dir recording
    """
    from speakeasy.dialect.audio import packaged_dialogues, read_dialogues
    from speakeasy.dialect.audio_pages import HTML, MARKDOWN, html_page, markdown_page
    from speakeasy.errors import UsageError
    from speakeasy.files import disk_errors, write_text

    dialogues = packaged_dialogues() if source is None else read_dialogues(source)
    pages = {MARKDOWN: markdown_page(dialogues), HTML: html_page(dialogues)}
    for name in pages:
        if (output_dir / name).exists() and not force:
            raise UsageError(
                f"--output-dir {output_dir}: {name} exists there; choose another directory, or "
                "add --force"
            )
    with disk_errors(f"{output_dir}", "choose another --output-dir"):
        for name, text in pages.items():
            write_text(output_dir / name, text)
    if as_json:
        words = sum(dialogue.words for dialogue in dialogues)
        files = [str(output_dir / name) for name in pages]
        emit({"dialogues": len(dialogues), "words": words, "files": files})
        return
    many = "dialogue" if len(dialogues) == 1 else "dialogues"
    for name in pages:
        say(f"{output_dir / name}: {len(dialogues):,} {many}")


prompts.add_command(list_prompts)
prompts.add_command(audio)


def _record(prompt: Prompt) -> dict[str, object]:
    return {
        "id": prompt.id,
        "prompt": prompt.text,
        "category": prompt.category,
        "register": prompt.register,
        "expects": list(prompt.expects),
        "control": prompt.control,
    }


def _table(found: Sequence[Prompt]) -> Table:
    """The prompts, those of a category together, in the order in which categories first occur."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("category", "id", "prompt", "expects"):
        table.add_column(name)
    for category in dict.fromkeys(prompt.category for prompt in found):
        table.add_section()
        shown = category or "none"
        for prompt in (each for each in found if each.category == category):
            expects = "plain Spanish" if prompt.control else ", ".join(prompt.expects)
            cells = (shown, prompt.id, prompt.text, expects)
            table.add_row(*(Text(cell) for cell in cells))
            shown = ""
    return table

"""Writes ``docs/commands.md``: the ``--help`` of every command. A test fails when it is stale.

Run it with ``python docs/render_commands.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from speakeasy.cli.main import main

TARGET = Path(__file__).with_name("commands.md")
WIDTH = 100
"""Columns of the help, so that it does not depend on the terminal."""

HEADER = """\
# Commands

The help of every command, as `--help` prints it. This file is written by
`python docs/render_commands.py`; a test fails when it is out of date.
"""


def commands(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    """The words that call a command, and the command; then the same of those below it."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=words)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, f"{words} {name}")


def render() -> str:
    """The whole page, in Markdown."""
    sections = [HEADER]
    for words, command in commands(main, "speakeasy"):
        settings = {**command.context_settings, "terminal_width": WIDTH}
        with click.Context(command, info_name=words, **settings) as context:
            lines = command.get_help(context).splitlines()
        text = "\n".join(line.rstrip() for line in lines)
        sections.append(f"## {words}\n\n```text\n{text}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")

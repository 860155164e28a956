"""What all commands share: option spelling, ``--json``, and where human text goes.

Results for programs go to stdout as exactly one JSON object; everything for people, progress
and errors too, goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])


def dashes(name: str) -> str:
    """Option names as typed: ``--num_epochs`` and ``--num-epochs`` are the same."""
    return name.replace("_", "-")


CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": dashes,
    "max_content_width": 100,
}


def command(name: str | None = None, **attributes: Any) -> Callable[[F], click.Command]:
    """``click.command`` with this project's settings."""
    return click.command(name, context_settings=CONTEXT_SETTINGS, **attributes)


def group(name: str | None = None, **attributes: Any) -> Callable[[F], click.Group]:
    """``click.group`` with this project's settings."""
    return click.group(name, context_settings=CONTEXT_SETTINGS, **attributes)


def json_option(function: F) -> F:
    """Add ``--json``; the command receives ``as_json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else."
    )(function)


def model_option(
    help: str = "starter, a directory, or a name on the Hub.", default: str | None = None
) -> Callable[[F], F]:
    """``--model``, in the guide's spellings too; the command receives ``model``."""
    return click.option(
        "--model",
        "--model-name",
        "--model-path",
        "model",
        default=default,
        show_default=default is not None,
        metavar="NAME",
        help=help,
    )


def emit(result: dict[str, Any]) -> None:
    """Print the one JSON object of ``--json`` on stdout."""
    click.echo(json.dumps(result, ensure_ascii=False, allow_nan=False, default=str))


@cache
def console() -> Console:
    """The console for people: stderr, made when first used because rich is slow to import."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str = "") -> None:
    """Print a line for people on stderr, as it is: no markup, no wrapping."""
    click.echo(text, err=True)


@contextmanager
def progress(
    description: str, total: int | None, unit: str = ""
) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr that yields a function to call with the number of units done.

    On a terminal it is a live bar; elsewhere (a log file, CI) it prints nothing until the end.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(description, total=total)

        def advance(done: int) -> None:
            bar.advance(task, done)

        yield advance


def terminal() -> bool:
    """True when a person sees stderr."""
    return sys.stderr.isatty()

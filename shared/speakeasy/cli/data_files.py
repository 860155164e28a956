"""The FILE arguments and ``--format`` of the commands that read conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speakeasy.cli.common import F

if TYPE_CHECKING:
    from speakeasy.data.dataset import Dataset
    from speakeasy.data.formats import Format

FORMAT_CHOICES = ("messages", "sharegpt", "alpaca", "prompt-completion", "csv")
"""``speakeasy.data.formats.FORMATS``, which is not imported for ``--help``; a test compares."""


def files_argument(required: bool = False) -> Callable[[F], F]:
    """Add FILE..., files or directories; whether they exist is for the data layer to say."""
    path = click.Path(path_type=Path)
    return click.argument(
        "files",
        nargs=-1,
        required=required,
        type=path,
        metavar="FILE..." if required else "[FILE]...",
    )


def format_option(function: F) -> F:
    """Add ``--format``; the command receives ``format``, None to detect it."""
    return click.option(
        "--format",
        type=click.Choice(FORMAT_CHOICES),
        help="How to read the files; by default told from each file's name and first record.",
    )(function)


def read_files(files: Sequence[Path], format: Format | None) -> tuple[Dataset, bool]:
    """The files' data set, or the starter data; and whether it is the latter."""
    from speakeasy.data.dataset import read_dataset, starter_files

    return read_dataset(files or starter_files(), format), not files

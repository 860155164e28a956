"""Options that the commands of ``speakeasy vocab`` share: which words, and how they get entries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

MODE_CHOICES = ("auto", "vocab", "merges", "reserved")
"""``speakeasy.vocab.expand.MODES``, which is not imported for ``--help``; a test compares."""


def words_options(function: F) -> F:
    """``--words``, ``--categories`` and ``--lexicon``; the command receives ``words_file``,
    ``categories`` and ``lexicon``."""
    for option in (
        click.option(
            "--lexicon",
            type=click.Choice(["guide", "full"]),
            default="guide",
            show_default=True,
            help="The guide's words, or all of the packaged lexicon with its word forms.",
        ),
        click.option("--categories", help="Only these, such as family,places.  [default: all]"),
        click.option(
            "--words",
            "words_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Your own words, one a line, or a file that suggest has written.  "
            "[default: the guide's five categories]",
        ),
    ):
        function = option(function)
    return function


mode_option = click.option(
    "--mode",
    type=click.Choice(MODE_CHOICES),
    default="auto",
    show_default=True,
    help="How the tokenizer reaches new entries; reserved takes unused rows of Llama 3.",
)

"""Commands in several processes: which may, and what is shown of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from speakeasy.cli.common import emit
from speakeasy.errors import UsageError
from speakeasy.training.launcher import launched

if TYPE_CHECKING:
    from speakeasy.training.group import Group
    from speakeasy.training.lifeline import Lifeline

TOGETHER = ("train", "pretrain")
"""Commands that several processes can carry out together."""


def refuse_several(command: str) -> None:
    """Raise UsageError if a launcher started several processes of a command that is for one."""
    found = launched()
    if found is not None and command not in TOGETHER:
        raise UsageError(
            f"{command}: is for one process, and {found.launcher} started {found.size}; call it "
            f"without {found.launcher} ({' and '.join(TOGETHER)} can take several)"
        )


@contextmanager
def together(as_json: bool) -> Iterator[tuple[Group, Lifeline]]:
    """The processes that a launcher started, or this one alone; if one ends early all end."""
    from speakeasy.training.backend import join
    from speakeasy.training.lifeline import lifeline

    def fail(message: str) -> None:
        click.echo(f"error: {message}", err=True)
        if as_json:
            emit({"error": message})

    group = join()
    with lifeline(group, fail) as line:
        yield group, line

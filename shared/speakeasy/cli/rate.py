"""``speakeasy rate``: the group of the blind study. Its commands are loaded when called for."""

from __future__ import annotations

import importlib

import click

from speakeasy.cli.common import CONTEXT_SETTINGS

RATE_COMMANDS = {
    "new": ("speakeasy.cli.rate_new:new", "Make a blind study of two or more models' answers."),
    "invite": ("speakeasy.cli.rate_serve:invite", "Make links for raters."),
    "revoke": ("speakeasy.cli.rate_serve:revoke", "End a rater's access."),
    "serve": ("speakeasy.cli.rate_serve:serve", "Show the study to its raters."),
    "status": ("speakeasy.cli.rate_serve:status", "Say who has done how much."),
    "close": ("speakeasy.cli.rate_serve:close", "Take no more votes."),
    "report": ("speakeasy.cli.rate_results:report", "Say what the votes show."),
    "export": ("speakeasy.cli.rate_results:export", "Write out votes and recordings."),
    "preferences": (
        "speakeasy.cli.rate_results:preferences",
        "Turn agreed votes into pairs for preference training.",
    ),
}
"""Command name -> (module:attribute, the first sentence of its help); in the order of a study."""


class Rate(click.Group):
    """Loads its commands when they are called for: serving needs no numpy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in the order of a study."""
        return list(RATE_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in RATE_COMMANDS:
            return None
        module, attribute = RATE_COMMANDS[cmd_name][0].split(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, RATE_COMMANDS[name][1]) for name in RATE_COMMANDS])


@click.group(cls=Rate, context_settings=CONTEXT_SETTINGS)
def rate() -> None:
    """Ask native speakers, who are not told which model wrote what.

    \b
    A study from beginning to end:
      speakeasy rate new --runs A B --output-dir study
      speakeasy rate invite study -n 12 --url https://study.example.org
      speakeasy rate serve study --url https://study.example.org
      speakeasy rate status study
      speakeasy rate close study
      speakeasy rate report study
    """

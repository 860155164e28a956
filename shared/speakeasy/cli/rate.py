"""``speakeasy rate``: the group of the blind study. Its commands are loaded when called for."""

from __future__ import annotations

import click

from speakeasy.cli.common import CONTEXT_SETTINGS
from speakeasy.cli.lazy import LazyGroup

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


@click.group(cls=LazyGroup, places=RATE_COMMANDS, context_settings=CONTEXT_SETTINGS)
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

"""A conversation in the terminal, or with whatever writes to the standard input."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

import click

from speakeasy.cli.common import say
from speakeasy.errors import SpeakeasyError

if TYPE_CHECKING:
    from speakeasy.training.backend import Sampling
    from speakeasy.training.inference import Responder

HELP = "/reset forgets the conversation, /system TEXT sets the system message, /quit or Ctrl-D ends"


@dataclass
class Conversation:
    """The messages so far, and the model that answers them.

    Attributes:
        out: where the answers go; everything else goes to stderr.
    """

    responder: Responder
    sampling: Sampling
    out: TextIO
    messages: list[Mapping[str, str]] = field(default_factory=list)

    def run(self) -> None:
        """Read and answer until the user ends it."""
        say(HELP)
        while (line := _read_line()) is not None:
            word, _, rest = line.partition(" ")
            if word == "/quit":
                break
            if word == "/reset":
                self.reset()
            elif word == "/system":
                self.set_system(rest.strip())
            elif line.startswith("/"):
                say(f"{word}: no such command; {HELP}")
            elif line:
                self.say(line)

    def reset(self) -> None:
        """Forget all but the system message."""
        self.messages = [turn for turn in self.messages if turn["role"] == "system"]
        say("the conversation starts anew")

    def set_system(self, text: str) -> None:
        """Put the system message in place, or with an empty text take it away."""
        turns = [turn for turn in self.messages if turn["role"] != "system"]
        self.messages = [{"role": "system", "content": text}, *turns] if text else turns
        say(f"system message: {text or 'none'}")

    def say(self, text: str) -> None:
        """Say something and show the answer as it comes; an error leaves the history as it was."""
        asked: list[Mapping[str, str]] = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        try:
            asked, dropped = self.responder.fit(asked, self.sampling)
            if dropped:
                say(f"(the context is full: the oldest {dropped} messages are forgotten)")
            for piece in self.responder.stream(asked, self.sampling):
                shown = piece if pieces else piece.lstrip()
                if shown:
                    pieces.append(shown)
                    click.echo(shown, nl=False, file=self.out)
        except SpeakeasyError as error:
            say(f"error: {error}")
            return
        except KeyboardInterrupt:
            say(" (stopped)")
        click.echo(file=self.out)
        answer = "".join(pieces).strip()
        if answer:
            self.messages = [*asked, {"role": "assistant", "content": answer}]
        else:
            say("(the model had nothing to say)")


def _read_line() -> str | None:
    """The next line, stripped; None at the end of the input or on Ctrl-C."""
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            import readline  # noqa: F401  (input() then edits lines and remembers them)

            return input("\n> ").strip()
        line = sys.stdin.readline()
        return line.strip() if line else None
    except (EOFError, KeyboardInterrupt):
        say()
        return None

"""The root command: finds a command's module when it is called for, and reports errors."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from speakeasy import __version__
from speakeasy.cli.common import CONTEXT_SETTINGS, emit
from speakeasy.cli.lazy import LazyGroup
from speakeasy.cli.processes import refuse_several
from speakeasy.errors import SaidElsewhereError, SpeakeasyError

COMMANDS = {
    "chat": ("speakeasy.cli.generate:chat", "Talk with a model in the terminal."),
    "compare": (
        "speakeasy.cli.compare:compare",
        "Put runs side by side and draw the verdict.",
    ),
    "completion": ("speakeasy.cli.completion:completion", "Print the tab completion script."),
    "convert": (
        "speakeasy.cli.convert:convert",
        "Carry an adapter over to the other library: MLX or PEFT.",
    ),
    "corpus": (
        "speakeasy.cli.corpus:corpus",
        "Build a corpus of raw text, and say what one holds.",
    ),
    "data": ("speakeasy.cli.data:data", "Check, convert and split conversations."),
    "doctor": ("speakeasy.cli.doctor:doctor", "Say what would run here, and what is missing."),
    "evaluate": (
        "speakeasy.cli.evaluate:evaluate",
        "Score a model and measure its answers.",
    ),
    "export": ("speakeasy.cli.export:export", "Fuse a run into a model that anyone can load."),
    "generate": ("speakeasy.cli.generate:generate", "Answer prompts with a model."),
    "pretrain": ("speakeasy.cli.pretrain:pretrain", "Go on pre-training a model on raw text."),
    "prompts": (
        "speakeasy.cli.prompts:prompts",
        "List the evaluation prompts, and write dialogues to record.",
    ),
    "rate": (
        "speakeasy.cli.rate:rate",
        "Ask native speakers, who are not told which model wrote what.",
    ),
    "run": ("speakeasy.cli.run:run", "Carry out a recipe, stage by stage."),
    "train": ("speakeasy.cli.train:train", "Adapt a model to conversations with LoRA."),
    "vocab": ("speakeasy.cli.vocab:vocab", "Give a model words of its own."),
}
"""Command name -> (module:attribute, the first sentence of its help, so that nothing is imported
to list it; a test compares the two)."""


TRACEBACK = "SPEAKEASY_TRACEBACK"
"""Environment variable that lets an unexpected error show its traceback."""


class Root(LazyGroup):
    """Loads commands when they are called for, and turns errors into one line and a status."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that is for one process is refused where several were started."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name is not None:
            refuse_several(name)
        return name, command, rest

    def main(  # type: ignore[override]
        self, args: list[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run, and exit with 0, 1 (cannot be done), 2 (wrong usage) or 128 + signal."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        words = list(sys.argv[1:] if args is None else args)
        try:
            with _tidy_when_terminated():
                status = super().main(words, standalone_mode=False, **extra)
            sys.stdout.flush()
        except SaidElsewhereError as error:
            sys.exit(error.exit_status)
        except SpeakeasyError as error:
            _fail(str(error), error.exit_status, words)
        except click.ClickException as error:
            _fail(_one_line(error), error.exit_code, words)
        except (click.Abort, KeyboardInterrupt):
            _fail("stopped", 130, words)
        except _TerminatedError:
            _fail("stopped", 128 + signal.SIGTERM, words)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            kind, what = type(error).__name__, str(error).strip().splitlines()
            _fail(
                f"unexpected {kind}: {what[0] if what else 'no message'}; this is a defect of "
                f"speakeasy: set {TRACEBACK}=1 to see where, and please report it",
                1,
                words,
            )
        sys.exit(status if isinstance(status, int) else 0)


class _TerminatedError(BaseException):
    """SIGTERM, as an exception: so that half-written directories go, as at Ctrl-C."""


@contextlib.contextmanager
def _tidy_when_terminated() -> Iterator[None]:
    def raise_it(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one is obeyed at once
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, found)


def _one_line(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        message += f" (see '{context.command_path} --help')"
    return message


def _fail(message: str, status: int, words: list[str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever read the output may be gone already
        click.echo(f"error: {message}", err=True)
        if "--json" in words:
            emit({"error": message})
            sys.stdout.flush()
    sys.exit(status)


@click.group(cls=Root, places=COMMANDS, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="speakeasy")
def main() -> None:
    """Give a language model the voice of a region.

    \b
    First steps:
      speakeasy doctor              what would run on this machine, and why
      speakeasy run demo            the whole job in a few minutes, on packaged data
      speakeasy data check FILE     is my data fit for training?
      speakeasy train --train-file FILE --output-dir runs/first
      speakeasy chat --run runs/first

    Every command takes --json, and underscores equal dashes in option names.
    """

"""Following a run in the terminal: live bars for a person, a few lines for a log file."""

from __future__ import annotations

import time
from typing import Any

from speakeasy.cli.common import console, say, terminal

Record = dict[str, Any]
LOG_EVERY_S = 10.0
"""Seconds between lines in a log file."""


def show_step(record: Record, total: int) -> str:
    """A step in one line."""
    return (
        f"step {record['step']}/{total}  loss {record['loss']:.3f}  "
        f"{record['tokens_per_second']:,.0f} tok/s"
    )


def show_evaluation(record: Record) -> str:
    """An evaluation in one line."""
    when = f"after step {record['step']}" if record["step"] else "before training"
    if "rescored_at" in record:
        when += f", on the base in {record['base']}"
    return (
        f"held out, {when}: {record['eval_bits_per_byte']:.4f} bits/byte, "
        f"loss {record['eval_loss']:.4f}"
    )


class LogWatcher:
    """Plain lines, for output that is no terminal."""

    def __init__(self) -> None:
        self._total = 0
        self._logged = 0.0

    def on_start(self, step: int, total: int) -> None:
        """Say where training begins."""
        self._total = total
        say(f"training: step {step} of {total}")

    def on_rows(self, tokens: int) -> None:
        """Nothing: a log needs no more than steps."""

    def on_step(self, record: Record) -> None:
        """A line now and then, and at the last step."""
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY_S or record["step"] == self._total:
            self._logged = now
            say(show_step(record, self._total))

    def on_evaluation_start(self, conversations: int) -> None:
        """Say what is going on."""
        say(f"scoring {conversations} held-out items")

    def on_evaluation_advance(self, conversations: int) -> None:
        """Nothing."""

    def on_evaluation(self, record: Record) -> None:
        """The result."""
        say(show_evaluation(record))

    def on_finish(self, summary: Record) -> None:
        """Nothing: the command prints the summary."""


class BarWatcher:
    """Live progress bars, for a terminal."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console(),
        )
        self._training: Any = None
        self._evaluation: Any = None

    def __enter__(self) -> BarWatcher:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def on_start(self, step: int, total: int) -> None:
        """Show the bar of steps."""
        self._training = self._bars.add_task("training", total=total, completed=step, note="")

    def on_rows(self, tokens: int) -> None:
        """Nothing: the bar moves by steps."""

    def on_step(self, record: Record) -> None:
        """Move the bar."""
        note = f"loss {record['loss']:.3f}, {record['tokens_per_second']:,.0f} tok/s"
        self._bars.update(self._training, completed=record["step"], note=note)

    def on_evaluation_start(self, conversations: int) -> None:
        """Show the bar of conversations."""
        self._evaluation = self._bars.add_task("evaluating", total=conversations, note="")

    def on_evaluation_advance(self, conversations: int) -> None:
        """Move it."""
        self._bars.advance(self._evaluation, conversations)

    def on_evaluation(self, record: Record) -> None:
        """The result stays above the bars."""
        self._bars.remove_task(self._evaluation)
        self._bars.console.print(show_evaluation(record), highlight=False)

    def on_finish(self, summary: Record) -> None:
        """Nothing: the command prints the summary."""


class Watchers:
    """Passes every event on to several watchers, in order."""

    def __init__(self, *watchers: Any) -> None:
        self._watchers = watchers

    def __getattr__(self, event: str) -> Any:
        if not event.startswith("on_"):
            raise AttributeError(event)

        def tell(*arguments: Any) -> None:
            for watcher in self._watchers:
                getattr(watcher, event)(*arguments)

        return tell


def for_this_output() -> Any:
    """Bars on a terminal, lines elsewhere; a context manager that yields the watcher."""
    from contextlib import nullcontext

    return BarWatcher() if terminal() else nullcontext(LogWatcher())

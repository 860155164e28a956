"""Recipes in tests: a follower that remembers, and what was done about each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from speakeasy.cli.watch import LogWatcher
from speakeasy.training.loop import Record, Watcher
from speakeasy.training.run import Run
from speakeasy.training.session import Session
from speakeasy.workflow.execute import Outcome


class Listener:
    """A follower that remembers, and may do something at a step."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.lines: list[str] = []
        self.plans: list[Session] = []
        self.counted: list[tuple[str, int, int]] = []
        self.steps: list[int] = []
        self._at_step = at_step

    def say(self, line: str) -> None:
        self.lines.append(line)

    def planned(self, session: Session) -> None:
        self.plans.append(session)

    @contextmanager
    def training(self, session: Session, run: Run) -> Iterator[Watcher]:
        watcher = LogWatcher()

        def on_step(record: Record) -> None:
            self.steps.append(record["step"])
            self._at_step(record["step"])

        watcher.on_step = on_step  # type: ignore[method-assign]
        yield watcher

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        done: list[int] = []
        yield done.append
        self.counted.append((what, total, sum(done)))


def actions(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """Stage -> what had to be done for it."""
    return {outcome.stage.name: outcome.action for outcome in outcomes}

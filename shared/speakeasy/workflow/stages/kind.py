"""What the recipe's engine and the kinds of stages have to do with each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from speakeasy.training.loop import Watcher
from speakeasy.training.run import Run
from speakeasy.training.session import Session
from speakeasy.workflow.plans import Plan

Inputs = dict[str, str]
Say = Callable[[str], None]


class Follower(Protocol):
    """Someone who is told how a recipe is getting on."""

    def say(self, line: str) -> None:
        """A line for people."""

    def planned(self, session: Session) -> None:
        """Training is about to begin with this plan."""

    def training(self, session: Session, run: Run) -> AbstractContextManager[Watcher]:
        """What follows a training run, its plan's experiment trackers included."""
        ...

    def counting(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """What follows ``total`` units of work; it is called with the number of units done."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage works.

    Attributes:
        directory: the stage's own.
        plan: with the directories of other stages in the place of their names.
    """

    directory: Path
    plan: Plan


class Kind(Protocol):
    """What the recipe's engine needs to know of a kind of stage.

    Attributes:
        result: the file that is there only when the stage has finished.
    """

    result: str

    def inputs(self, place: Place, say: Say) -> Inputs:
        """Fingerprints of all that the stage reads beside its plan, by what they are of.

        Called when all the stages before it have finished.
        """
        ...

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Do it, from the start or from where it was left; ends by writing ``result``."""
        ...

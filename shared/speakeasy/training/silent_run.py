"""The run directory for those processes that leave it to process 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.training.run import Record, Run


class SilentRun(Run):
    """A run that is written elsewhere: nothing is written, and nothing is there to be read.

    Its path may not even exist, for process 0 may be on another machine.
    """

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Process 0 holds the lock."""
        yield

    @property
    def resume_command(self) -> str:
        """Process 0 says it."""
        return ""

    def carry_on(
        self, config: TrainConfig | PretrainConfig, environment: Record, step: int
    ) -> None:
        """Nothing."""

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        """Nothing."""

    def log_step(self, record: Record) -> None:
        """Nothing."""

    def log_evaluation(self, record: Record) -> None:
        """Nothing."""

    def log_rows_fitted(self, record: Record) -> None:
        """Nothing."""

    def evaluations(self) -> list[Record]:
        """None that this process knows of."""
        return []

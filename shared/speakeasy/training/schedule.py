"""Learning rate over steps, and the order in which packed rows are seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speakeasy.batches.pack import pack
from speakeasy.config import JobConfig, OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, total: int) -> float:
    """The rate of step ``step`` (counted from 1) of ``total``.

    It rises linearly over the warm-up, to the peak at its last step; then it stays, or falls
    along a line or half a cosine that would reach zero one step after the last.
    """
    warmup = round(config.warmup_ratio * total)
    if step <= warmup:
        return config.learning_rate * step / warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - warmup - 1) / max(1, total - warmup)
    falling = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * falling


@dataclass(frozen=True, slots=True)
class StepRows:
    """What one step sees.

    Attributes:
        epoch: counted from 0.
        rows: for each packed row, the indices of its conversations.
        cursor: rows of this epoch that are behind once the step is done.
        ends_epoch: True for an epoch's last step.
    """

    epoch: int
    rows: Sequence[Sequence[int]]
    cursor: int
    ends_epoch: bool


@dataclass(frozen=True, slots=True)
class DataOrder:
    """The order of the data: a pure function of lengths, seed and position, so it can be resumed
    anywhere and is the same on every backend.

    Each epoch packs anew, by the seed and its number. Its last step may have fewer rows.
    """

    lengths: Sequence[int]
    row_length: int
    rows_per_step: int
    seed: int

    def epoch_rows(self, epoch: int) -> list[list[int]]:
        """The packed rows of an epoch, in the order in which they are seen."""
        return pack(self.lengths, self.row_length, seed=self.seed + (epoch << 20))

    def steps_per_epoch(self) -> int:
        """Every epoch has as many rows, since ties alone are shuffled."""
        return -(-len(self.epoch_rows(0)) // self.rows_per_step)

    def total_steps(self, config: JobConfig) -> int:
        """Steps of the whole run."""
        return config.max_steps or config.num_epochs * self.steps_per_epoch()

    def steps(self, epoch: int, cursor: int) -> Iterator[StepRows]:
        """Steps from a position on, without end."""
        while True:
            rows = self.epoch_rows(epoch)
            for start in range(cursor, len(rows), self.rows_per_step):
                stop = min(start + self.rows_per_step, len(rows))
                yield StepRows(epoch, rows[start:stop], stop, stop == len(rows))
            epoch, cursor = epoch + 1, 0

"""The training loop: one for all backends.

It owns data order, accumulation, schedule, evaluation, the best adapter so far, states, logging
and stopping. All it asks of a backend is in ``backend.Engine``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from speakeasy.batches.ahead import ahead
from speakeasy.batches.pack import build_batch
from speakeasy.batches.pieces import item_lengths
from speakeasy.batches.types import PackedBatch, Rendered
from speakeasy.config import JobConfig, PretrainConfig
from speakeasy.errors import DivergedError, InterruptedRun
from speakeasy.training import state as states
from speakeasy.training.backend import Engine, Tensors
from speakeasy.training.evaluate import HeldOutLoss, held_out_loss
from speakeasy.training.group import Group, barrier, shared, total
from speakeasy.training.memory import peak_process_bytes
from speakeasy.training.run import Run
from speakeasy.training.schedule import DataOrder, StepRows, learning_rate
from speakeasy.training.signals import StopRequest
from speakeasy.training.state import Progress, TrainingState

Record = dict[str, Any]


class Watcher(Protocol):
    """Someone who follows a run: a progress bar, an experiment tracker."""

    def on_start(self, step: int, total: int) -> None:
        """Training begins, or goes on, after ``step`` of ``total`` steps."""

    def on_rows(self, tokens: int) -> None:
        """So many more tokens of the present step are behind."""

    def on_step(self, record: Record) -> None:
        """A step is done; the line that metrics.jsonl got."""

    def on_evaluation_start(self, conversations: int) -> None:
        """The held-out set is about to be scored."""

    def on_evaluation_advance(self, conversations: int) -> None:
        """So many more of its conversations are behind."""

    def on_evaluation(self, record: Record) -> None:
        """An evaluation is done; the line that evaluations.jsonl got."""

    def on_finish(self, summary: Record) -> None:
        """The run has finished; what summary.json got."""


@dataclass
class Fit:
    """One run of the loop, from a progress to the end.

    Attributes:
        train, held_out: conversations or texts as tokens.
        neutral: text that must not be forgotten, scored beside the held-out set; may be empty.
        rows_per_pass: packed rows that go through the engine at once; more of them only cost
            memory, the gradient is the same.
        base_form: what the frozen base is held in; each evaluation says so.
        progress: where to begin; afterwards, where it ended.
        group: the processes that share the rows; each has a ``Fit``, and process 0's writes.
    """

    config: JobConfig
    run: Run
    engine: Engine
    train: Sequence[Rendered]
    held_out: Sequence[Rendered]
    neutral: Sequence[Rendered]
    rows_per_pass: int
    base_form: str
    progress: Progress
    watcher: Watcher
    stop: StopRequest
    group: Group

    def __post_init__(self) -> None:
        self.order = DataOrder(
            lengths=item_lengths(self.train),
            row_length=self.config.row_length,
            rows_per_step=self.config.rows_per_step,
            seed=self.config.seed,
        )
        self.total_steps = self.order.total_steps(self.config)
        self._beginning: Tensors | None = None

    def __call__(self) -> None:
        """Train to the end.

        What training begins with is scored after the first step, which shows sooner that the run
        can be carried out; a model that is trained whole, of which no copy is kept, before it.

        Raises:
            InterruptedRun: a signal asked for it; the state is saved.
            DivergedError: the loss is not a number any more; the last good state is saved.
        """
        logged = shared(self.group, any(line["step"] == 0 for line in self.run.evaluations()))
        if self.progress.evaluation_due:
            self._evaluate()
        elif not logged and self.progress.step == 0:
            if isinstance(self.config, PretrainConfig) and self.config.train == "full":
                self._evaluate()
            else:
                self._beginning = _copies(self.engine.trainables())
        self.watcher.on_start(self.progress.step, self.total_steps)
        batches = (
            (rows, build_batch(self.train, rows.rows, self.config.row_length))
            for rows in self.order.steps(self.progress.epoch, self.progress.cursor)
        )
        with closing(ahead(batches)) as upcoming:
            while self.progress.step < self.total_steps and not self._out_of_patience():
                self._step(*next(upcoming))

    def rescore(self, weights: Mapping[int, Tensors]) -> None:
        """Score earlier weights on the base as it is held now, so that figures can be compared.

        Args:
            weights: by step; 0 for those that training began with.

        Raises:
            InterruptedRun, DivergedError: as a call of the loop does.
        """
        if not weights:
            return
        for step, record in self._score_weights(weights):
            record["rescored_at"] = self.progress.step
            if step and step == self.progress.best_step:
                self.progress = replace(self.progress, best_score=record["eval_bits_per_byte"])
            self.run.log_evaluation(record)
            self.watcher.on_evaluation(record)

    def best(self) -> TrainingState:
        """The state whose weights are the run's result."""
        return states.at_step(self.run.states, self.progress.best_step)

    def _step(self, rows: StepRows, batch: PackedBatch) -> None:
        before = self.progress
        step = before.step + 1
        started = time.perf_counter()
        rate = learning_rate(self.config.optimizer, step, self.total_steps)
        nats, norm = self._update(batch, step, rate)
        seconds = time.perf_counter() - started
        self.progress = replace(
            before,
            step=step,
            epoch=rows.epoch,
            cursor=rows.cursor,
            tokens=before.tokens + batch.token_count,
            target_tokens=before.target_tokens + batch.target_count,
            nats=before.nats + nats,
            seconds=before.seconds + seconds,
            evaluation_due=self._due(step, rows),
        )
        target_bytes = sum(self.train[index].target_bytes for row in rows.rows for index in row)
        record = {
            "step": step,
            "epoch": rows.epoch,
            "loss": nats / batch.target_count,
            "bits_per_byte": nats / math.log(2) / target_bytes,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": self.progress.tokens,
            "target_tokens": self.progress.target_tokens,
            "tokens_per_second": batch.token_count / seconds,
            "peak_memory_bytes": peak_process_bytes(),
            "device_peak_memory_bytes": self.engine.device_peak_bytes(),
        }
        self.run.log_step(record)
        self.watcher.on_step(record)
        self._score_beginning()
        if self.progress.evaluation_due:
            self._evaluate()
        elif step % self.config.save_every == 0:
            self._save()

    def _update(self, batch: PackedBatch, step: int, rate: float) -> tuple[float, float]:
        """One optimizer step; returns the batch's loss in nats and the gradient norm.

        Each process takes its share of the rows, and part in every pass, with no rows if need be.
        The scale is that of the whole step, so that the sum of their gradients is the gradient.
        """
        self.engine.seed_step(step)
        scale = 1 / batch.target_count
        losses = []
        rows_at_once = self.rows_per_pass * self.engine.lanes * self.group.size
        for start in range(0, len(batch.tokens_BT), rows_at_once):
            self._obey_stop()
            whole = batch.rows(start, start + rows_at_once)
            part = whole.rows(self.group.rank, None, self.group.size)
            losses.append(self.engine.accumulate(part, scale))
            self.watcher.on_rows(whole.token_count)
        nats = float(total(self.group, np.array(sum(float(loss) for loss in losses))))
        norm = self.engine.apply(rate) if math.isfinite(nats) else nats
        if not math.isfinite(norm):
            self._diverged(f"step {step}: loss {nats * scale:.4g}, gradient norm {norm:.4g}")
        return nats, norm

    def _obey_stop(self, before_saving: Callable[[], None] = lambda: None) -> None:
        signal_number = self.stop.agreed(self.group)
        if signal_number is None:
            return
        before_saving()
        self.engine.discard()
        self._save()
        raise InterruptedRun(
            f"stopped after step {self.progress.step} of {self.total_steps}; the state is saved; "
            f"go on with: {self.run.resume_command}",
            signal_number,
        )

    def _diverged(self, what: str) -> None:
        self.engine.discard()
        self._save()
        raise DivergedError(
            f"{what}: not a number any more; the state after step {self.progress.step} is kept in "
            f"{self.run.states}; start again with a lower --learning-rate or --precision float32"
        )

    def _due(self, step: int, rows: StepRows) -> bool:
        every = self.config.eval_every
        return step == self.total_steps or (step % every == 0 if every else rows.ends_epoch)

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.stale

    def _evaluate(self) -> None:
        """Score the held-out set at the present step, and remember the best so far."""
        step = self.progress.step
        record = self._measure(step, self._evaluation_advance)
        score = record["eval_bits_per_byte"]
        if step:
            improved = self.progress.best_score is None or score < self.progress.best_score
            self.progress = replace(
                self.progress,
                best_score=score if improved else self.progress.best_score,
                best_step=step if improved else self.progress.best_step,
                stale=0 if improved else self.progress.stale + 1,
                evaluation_due=False,
            )
        self.run.log_evaluation(record)
        if step:
            self._save()
        self.watcher.on_evaluation(record)

    def _score_beginning(self) -> None:
        """Score what training began with, where that is still to be done."""
        if self._beginning is None:
            return
        for _, record in self._score_weights({0: self._beginning}):
            self.run.log_evaluation(record)
            self.watcher.on_evaluation(record)
        self._beginning = None

    def _score_weights(self, weights: Mapping[int, Tensors]) -> Iterator[tuple[int, Record]]:
        """The lines of earlier weights, by step; between them the engine has its own again."""
        present = _copies(self.engine.trainables())

        def advance(conversations: int) -> None:
            self._obey_stop(lambda: self.engine.set_trainables(present))  # they are what is saved
            self.watcher.on_evaluation_advance(conversations)

        for step, tensors in weights.items():
            self.engine.set_trainables(tensors)
            record = self._measure(step, advance)
            self.engine.set_trainables(present)
            yield step, record

    def _measure(self, step: int, advance: Callable[[int], None]) -> Record:
        """The line of evaluations.jsonl for the engine's weights, which are those of ``step``."""
        self.watcher.on_evaluation_start(len(self.held_out) + len(self.neutral))
        started = time.perf_counter()
        result = self._score(self.held_out, advance)
        score = result.bits_per_byte
        if not math.isfinite(score):
            raise DivergedError(
                f"evaluation after step {step}: {score:.4g} bits per byte, not a number any more; "
                f"the states saved before it are kept in {self.run.states}; start again with a "
                f"lower --learning-rate or --precision float32"
            )
        record: Record = {
            "step": step,
            "base": self.base_form,
            "eval_loss": result.loss,
            "eval_bits_per_byte": score,
            "eval_word_perplexity": _finite(result.word_perplexity),
            "eval_target_tokens": result.target_tokens,
            "eval_target_bytes": result.target_bytes,
            "eval_target_words": result.target_words,
        }
        if self.neutral:
            record["neutral_bits_per_byte"] = self._score(self.neutral, advance).bits_per_byte
        record["seconds"] = time.perf_counter() - started
        return record

    def _score(self, items: Sequence[Rendered], advance: Callable[[int], None]) -> HeldOutLoss:
        return held_out_loss(
            self.engine,
            items,
            self.config.row_length,
            rows_per_pass=self.rows_per_pass,
            advance=advance,
            group=self.group,
        )

    def _evaluation_advance(self, conversations: int) -> None:
        self._obey_stop()
        self.watcher.on_evaluation_advance(conversations)

    def _save(self) -> None:
        """Save the state, which is the same in all processes; they wait for the one that writes."""
        if self.group.rank == 0:
            first, second = self.engine.moments()
            state = TrainingState(self.progress, self.engine.trainables(), first, second)
            states.save(state, self.run.states, best=self.progress.best_step)
        barrier(self.group)


def _copies(tensors: Tensors) -> Tensors:
    return {name: tensor.copy() for name, tensor in tensors.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""A whole training run: from what was planned to a finished run directory."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from speakeasy import __version__
from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.errors import DivergedError, DoesNotFitError
from speakeasy.training import results
from speakeasy.training.backend import Backend, Device, Selection
from speakeasy.training.group import ALONE, Group, barrier
from speakeasy.training.loop import Fit, Record, Watcher
from speakeasy.training.memory import out_of_memory
from speakeasy.training.preflight import Placement
from speakeasy.training.prepare import Prepared
from speakeasy.training.run import Run
from speakeasy.training.signals import stop_on_signals
from speakeasy.weights.checkpoint import ModelShape
from speakeasy.weights.hub import ModelDirectory
from speakeasy.weights.trained_rows import TrainedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from speakeasy.training.opening import Opened

_PACKAGES = (
    "numpy",
    "tokenizers",
    "transformers",
    "torch",
    "peft",
    "bitsandbytes",
    "mlx",
    "mlx-lm",
)


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that is known before the first step.

    Attributes:
        config: the plan with every choice made.
        layers: the linear layers that get an adapter, name -> (out, in).
        rows: the embedding rows that are trained, as the base has them; None for none.
        trainable_parameters: numbers that training changes.
        group: the processes that train together.
    """

    config: TrainConfig | PretrainConfig
    selection: Selection
    backend: Backend
    device: Device
    model: ModelDirectory
    shape: ModelShape
    tokenizer: PreTrainedTokenizerBase
    prepared: Prepared
    layers: dict[str, tuple[int, int]]
    rows: TrainedRows | None
    trainable_parameters: int
    placement: Placement
    base: str
    tokenizer_base: str
    group: Group = ALONE

    @property
    def counts(self) -> dict[str, int]:
        """How much there is to learn and to score."""
        what = "pieces" if isinstance(self.config, PretrainConfig) else "conversations"
        return {
            f"train_{what}": len(self.prepared.train.items),
            f"eval_{what}": len(self.prepared.held_out.items),
        }

    @property
    def quantization(self) -> str | None:
        """What the frozen base is held in, if not in full precision."""
        return quantization(self.shape, self.config.use_4bit, self.selection.name)

    @property
    def base_form(self) -> str:
        """What the frozen base is held in: its quantisation, or its precision."""
        return self.quantization or self.config.precision


def quantization(shape: ModelShape, use_4bit: bool, backend: str) -> str | None:
    """What a base is held in, if not in full precision: as it is stored, or as a backend does it.

    Args:
        shape: of the model as it is stored.
    """
    if shape.quantization is not None:
        return shape.quantization
    if not use_4bit:
        return None
    return "mlx 4-bit" if backend == "mlx" else "nf4"


def train(session: Session, run: Run, opened: Opened, watcher: Watcher) -> Record:
    """Train from where ``opened`` stands to the end; returns what summary.json holds.

    Every process of the group calls this, all but the first with a ``SilentRun``; these return
    nothing in the end.

    Raises:
        InterruptedRun: a signal asked for it; the state is saved.
        DivergedError: the loss is not a number any more; the best adapter so far is written.
        DoesNotFitError: memory ran out; the states saved before are whole.
        RunError: another process is training in this run.
    """
    started = time.perf_counter()
    progress = opened.progress
    with run.locked(), stop_on_signals() as stop:
        run.rewind(progress.step, evaluated=not progress.evaluation_due)
        run.carry_on(session.config, environment(session), progress.step)
        if opened.fitted is not None:
            run.log_rows_fitted(opened.fitted.record)
        fit = Fit(
            config=session.config,
            run=run,
            engine=opened.engine,
            train=session.prepared.train.items,
            held_out=session.prepared.held_out.items,
            neutral=session.prepared.neutral,
            rows_per_pass=session.placement.rows_per_pass,
            base_form=session.base_form,
            progress=progress,
            watcher=watcher,
            stop=stop,
            group=session.group,
        )
        try:
            fit.rescore(opened.to_rescore)
            fit()
        except DivergedError as error:
            raise _with_best(session, run, fit, error) from None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise DoesNotFitError(
                f"memory ran out after step {fit.progress.step}; the states in {run.states} are "
                f"whole; start again with --gradient-checkpointing, --use-4bit or a shorter "
                f"--max-length"
            ) from error
        summary: Record = {}
        if session.group.rank == 0:
            summary = results.finish(session, run, fit, time.perf_counter() - started)
        barrier(session.group)  # a launcher may end all processes when the first one ends
    watcher.on_finish(summary)
    return summary


def _with_best(session: Session, run: Run, fit: Fit, error: DivergedError) -> DivergedError:
    """Write the best weights so far, if there are any, and say where they are."""
    step = fit.progress.best_step
    if step and session.group.rank == 0:
        where = results.write(session, run, fit.best().trainables, step)
        error = DivergedError(f"{error}; the best weights so far, of step {step}, are in {where}")
    barrier(session.group)
    return error


def environment(session: Session) -> Record:
    """What the run is on, for environment.json; its one part is a run's that begins here."""
    machine = {
        "speakeasy": __version__,
        "backend": session.selection.name,
        "reason": session.selection.reason,
        "device": session.device.name,
        "precision": session.config.precision,
        "quantization": session.quantization,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": installed_packages(),
        "model_directory": str(session.model.path),
        "processes": session.group.size,
    }
    return {
        **machine,
        "base_fingerprint": session.base,
        "tokenizer_fingerprint": session.tokenizer_base,
        "data": session.prepared.origin,
        "data_fingerprint": session.prepared.fingerprint,
        "parts": [{"first_step": 1, **machine}],
    }


def installed_packages() -> dict[str, str]:
    """The versions of the packages that a result can depend on, as far as they are installed."""
    return {name: found for name in _PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

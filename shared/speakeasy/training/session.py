"""A whole training run: from what was planned to a finished run directory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING

from speakeasy import __version__
from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.errors import DivergedError, DoesNotFitError
from speakeasy.training import results, resume
from speakeasy.training import state as states
from speakeasy.training.backend import Backend, Device, Engine, EngineOptions, Selection
from speakeasy.training.fit_rows import Fitted, fit_rows
from speakeasy.training.loop import Fit, Record, Watcher
from speakeasy.training.preflight import Placement
from speakeasy.training.prepare import Prepared
from speakeasy.training.run import Run
from speakeasy.training.signals import stop_on_signals
from speakeasy.training.state import Progress, Tensors
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.adapters import draw_lora
from speakeasy.weights.checkpoint import ModelShape
from speakeasy.weights.hub import ModelDirectory
from speakeasy.weights.trained_rows import TrainedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine with a training state in it, ready for the next step.

    Attributes:
        to_rescore: steps whose evaluation is of a base held otherwise, see ``Fit.rescore``.
        fitted: the new rows, if they were fitted now.
    """

    engine: Engine
    progress: Progress
    to_rescore: Mapping[int, Tensors] = field(default_factory=dict)
    fitted: Fitted | None = None


def open_engine(
    session: Session,
    run: Run | None,
    *,
    say: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> Opened:
    """Load the model, and the newest state of ``run`` if there is one.

    Called before a new run's directory is made, so that a model that cannot be loaded leaves
    nothing behind.

    Args:
        say: called with a line about each thing that is not as the run had it until now.

    Raises:
        RunError: the run was started with another base or other data, or its state is broken.
    """
    state = None
    if run is not None:
        now = environment(session)
        resume.check_same(run, now)
        state = states.latest(run.states)
        step = state.progress.step if state else 0
        if state is None and (logged := len(run.steps())):
            say(
                f"warning: {run.states}: no state of the {logged} logged steps is left; training "
                "begins again before step 1"
            )
        for line in resume.changes(run, now, session.device, step):
            say(line)
    config = session.config
    adapter = draw_lora(session.layers, config.lora.r, config.seed) if session.layers else None
    engine = session.backend.load(
        EngineOptions(
            model=session.model.path,
            precision=config.precision,
            use_4bit=config.use_4bit,
            gradient_checkpointing=session.placement.gradient_checkpointing,
            lora=config.lora if session.layers else None,
            adapter=adapter,
            rows=session.rows,
            full=isinstance(config, PretrainConfig) and config.train == "full",
            optimizer=config.optimizer,
            seed=config.seed,
        )
    )
    progress = Progress()
    otherwise: list[int] = []
    if run is not None:
        progress = resume.with_best_score(run, state.progress) if state else progress
        otherwise = resume.scored_otherwise(run, progress, session.base_form)
    fitted = _fit_rows(session, engine, say, bar) if state is None or 0 in otherwise else None
    to_rescore = {
        step: states.at_step(run.states, step).trainables if run and step else engine.trainables()
        for step in otherwise
    }
    if state is not None:
        engine.restore(state.trainables, state.first, state.second, progress.step)
    # With a state, rows were fitted for the sake of scoring: what training began from is on record.
    return Opened(engine, progress, to_rescore, fitted if state is None else None)


def _fit_rows(
    session: Session, engine: Engine, say: Callable[[str], None], bar: Bar
) -> Fitted | None:
    """Fit new rows to the base's predictions, and put them in, where the plan has it so."""
    config, rows = session.config, session.rows
    if not isinstance(config, PretrainConfig) or not config.fit_rows or rows is None:
        return None
    fitted = fit_rows(
        engine,
        session.model.path,
        rows,
        session.prepared.train.items,
        positions=config.fit_rows,
        row_length=config.row_length,
        context=session.shape.max_positions,
        seed=config.seed,
        say=say,
        bar=bar,
    )
    if fitted is not None:
        engine.set_trainables({**engine.trainables(), **fitted.rows.tensors()})
    return fitted


def train(session: Session, run: Run, opened: Opened, watcher: Watcher) -> Record:
    """Train from where ``opened`` stands to the end; returns what summary.json holds.

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
        )
        try:
            fit.rescore(opened.to_rescore)
            fit()
        except DivergedError as error:
            if not fit.progress.best_step:
                raise
            where = results.write(session, run, fit.best().trainables, fit.progress.best_step)
            raise DivergedError(
                f"{error}; the best weights so far, of step {fit.progress.best_step}, are in "
                f"{where}"
            ) from None
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise DoesNotFitError(
                f"memory ran out after step {fit.progress.step}; the states in {run.states} are "
                f"whole; start again with --gradient-checkpointing, --use-4bit or a shorter "
                f"--max-length"
            ) from error
        summary = results.finish(session, run, fit, time.perf_counter() - started)
    watcher.on_finish(summary)
    return summary


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; every framework has its own words for that."""
    said = str(error).lower()
    signs = ("out of memory", "memory allocation", "can't allocate", "unable to allocate", "malloc")
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)


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

"""A whole training run: from a plan to a finished run directory."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from speakeasy import __version__
from speakeasy.config import TrainConfig
from speakeasy.errors import AdapterError, DivergedError, DoesNotFitError, ModelError, RunError
from speakeasy.files import disk_errors, new_directory
from speakeasy.training import state as states
from speakeasy.training.backend import (
    Backend,
    Device,
    Engine,
    EngineOptions,
    Selection,
    open_backend,
    select,
)
from speakeasy.training.loop import Fit, Record, Watcher
from speakeasy.training.memory import peak_process_bytes
from speakeasy.training.preflight import Placement, place
from speakeasy.training.prepare import Bar, Prepared, no_bar, prepare
from speakeasy.training.run import Run
from speakeasy.training.signals import stop_on_signals
from speakeasy.training.state import Progress, Tensors
from speakeasy.training.trackers import check_installed
from speakeasy.weights.adapters import (
    Adapter,
    draw_lora,
    read_adapter,
    select_layers,
    target_names,
    write_mlx,
    write_peft,
)
from speakeasy.weights.checkpoint import ModelShape, linear_layers, model_shape
from speakeasy.weights.fingerprint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.hub import ModelDirectory, is_local, load_tokenizer, resolve_model

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures whose output is a plain matrix product of the last hidden state, which both
backends' losses rely on."""

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
    """

    config: TrainConfig
    selection: Selection
    backend: Backend
    device: Device
    model: ModelDirectory
    shape: ModelShape
    tokenizer: Any
    prepared: Prepared
    layers: dict[str, tuple[int, int]]
    placement: Placement
    base: str
    tokenizer_base: str

    @property
    def trainable_parameters(self) -> int:
        """Numbers that training changes."""
        return sum((rows + columns) * self.config.lora.r for rows, columns in self.layers.values())

    @property
    def quantization(self) -> str | None:
        """What the frozen base is held in, if not in full precision."""
        if self.shape.quantization is not None:
            return self.shape.quantization
        if not self.config.use_4bit:
            return None
        return "mlx 4-bit" if self.selection.name == "mlx" else "nf4"


def plan(
    config: TrainConfig,
    *,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> Session:
    """Resolve every choice, read the data, and check that the plan fits. Nothing is written.

    Args:
        force: go on even if the memory estimate says that it does not fit.

    Raises:
        SpeakeasyError: whatever stands in the way, in one line.
    """
    check_installed(config.report_to)
    selection = select(config.backend)
    backend = open_backend(selection.name)
    device = backend.describe_device()
    say(f"backend: {selection.name} ({selection.reason}) on {device.name}")
    model = resolve_model(config.model, say=say)
    say(f"model: {model.source}")
    shape = model_shape(model.path)
    if shape.model_type not in SUPPORTED:
        raise ModelError(
            f"--model {config.model}: architecture {shape.model_type!r} is not supported; "
            f"expected one of {', '.join(SUPPORTED)}"
        )
    if shape.quantization and not (selection.name == "mlx" and shape.quantization[:3] == "mlx"):
        raise ModelError(
            f"--model {config.model}: is quantised already ({shape.quantization}), and the "
            f"{selection.name} backend cannot train on that; take the full-precision model, with "
            f"--use-4bit where memory is short"
        )
    config = _resolved(config, selection, device, model)
    tokenizer = load_tokenizer(model.path)
    prepared = prepare(
        config.data, tokenizer, config.seed, context=shape.max_positions, say=say, bar=bar
    )
    layers = select_layers(linear_layers(model.path), config.lora.targets)
    trainable = sum((rows + columns) * config.lora.r for rows, columns in layers.values())
    placement = place(config, shape, trainable, selection.name, device, force=force)
    return Session(
        config=replace(config, gradient_checkpointing=placement.gradient_checkpointing),
        selection=selection,
        backend=backend,
        device=device,
        model=model,
        shape=shape,
        tokenizer=tokenizer,
        prepared=prepared,
        layers=layers,
        placement=placement,
        base=fingerprint(model.path),
        tokenizer_base=tokenizer_fingerprint(model.path),
    )


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine with a training state in it, ready for the next step."""

    engine: Engine
    progress: Progress


def open_engine(session: Session, run: Run | None) -> Opened:
    """Load the model, and the newest state of ``run`` if there is one.

    Called before a new run's directory is made, so that a model that cannot be loaded leaves
    nothing behind.

    Raises:
        RunError: the run was started with another base or other data, or its state is broken.
    """
    state = None
    if run is not None:
        _check_same(run, session)
        state = states.latest(run.states)
    config = session.config
    engine = session.backend.load(
        EngineOptions(
            model=session.model.path,
            precision=config.precision,
            use_4bit=config.use_4bit,
            gradient_checkpointing=session.placement.gradient_checkpointing,
            lora=config.lora,
            adapter=(
                state.trainables if state else draw_lora(session.layers, config.lora.r, config.seed)
            ),
            optimizer=config.optimizer,
            seed=config.seed,
        )
    )
    if state is None:
        return Opened(engine, Progress())
    engine.restore(state.trainables, state.first, state.second, state.progress.step)
    return Opened(engine, state.progress)


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
        fit = Fit(
            config=session.config,
            run=run,
            engine=opened.engine,
            train=session.prepared.train.items,
            held_out=session.prepared.held_out.items,
            rows_per_pass=session.placement.rows_per_pass,
            progress=progress,
            watcher=watcher,
            stop=stop,
        )
        try:
            fit()
        except DivergedError as error:
            if not fit.progress.best_step:
                raise
            _write_adapter(session, run, fit.best().trainables)
            raise DivergedError(
                f"{error}; the best adapter so far, of step {fit.progress.best_step}, is in "
                f"{run.adapter}"
            ) from None
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise DoesNotFitError(
                f"memory ran out after step {fit.progress.step}; the states in {run.states} are "
                f"whole; start again with --gradient-checkpointing, --use-4bit or a shorter "
                f"--max-length"
            ) from error
        summary = _finish(session, run, fit, time.perf_counter() - started)
    watcher.on_finish(summary)
    return summary


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; every framework has its own words for that."""
    said = str(error).lower()
    signs = ("out of memory", "memory allocation", "can't allocate", "unable to allocate", "malloc")
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)


def environment(session: Session) -> Record:
    """What the run was started on, for environment.json."""
    return {
        "speakeasy": __version__,
        "backend": session.selection.name,
        "reason": session.selection.reason,
        "device": session.device.name,
        "precision": session.config.precision,
        "quantization": session.quantization,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "model_directory": str(session.model.path),
        "base_fingerprint": session.base,
        "tokenizer_fingerprint": session.tokenizer_base,
        "data": session.prepared.origin,
        "data_fingerprint": session.prepared.fingerprint,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _resolved(
    config: TrainConfig, selection: Selection, device: Device, model: ModelDirectory
) -> TrainConfig:
    data = replace(
        config.data,
        train=tuple(str(Path(path).resolve()) for path in config.data.train),
        evaluation=tuple(str(Path(path).resolve()) for path in config.data.evaluation),
    )
    return replace(
        config,
        model=str(model.path) if is_local(config.model) else config.model,
        backend=selection.name,  # type: ignore[arg-type]
        precision=device.precision if config.precision == "auto" else config.precision,
        data=data,
    )


def _check_same(run: Run, session: Session) -> None:
    """Refuse to go on with other data, or on another base, than the run was started with."""
    now = environment(session)
    then = run.environment
    for what, key in (
        ("base model", "base_fingerprint"),
        ("tokenizer", "tokenizer_fingerprint"),
        ("data", "data_fingerprint"),
    ):
        if then.get(key) != now[key]:
            raise RunError(
                f"{run.path}: the {what} is not what the run was started with (fingerprint "
                f"{now[key][:12]}, then {str(then.get(key))[:12]}); put it back, or start a new run"
            )


def _finish(session: Session, run: Run, fit: Fit, total_seconds: float) -> Record:
    _write_adapter(session, run, fit.best().trainables)
    progress = fit.progress
    evaluations = {record["step"]: record for record in run.evaluations()}
    before, after = evaluations[0], evaluations[progress.best_step]
    summary = {
        "run": str(run.path.absolute()),
        "adapter": str(run.adapter.absolute()),
        "backend": session.selection.name,
        "reason": session.selection.reason,
        "device": session.device.name,
        "precision": session.config.precision,
        "quantization": session.quantization,
        "model": session.config.model,
        "steps": progress.step,
        "best_step": progress.best_step,
        "train_loss": progress.nats / progress.target_tokens,
        "eval_loss_before": before["eval_loss"],
        "eval_loss": after["eval_loss"],
        "eval_bits_per_byte_before": before["eval_bits_per_byte"],
        "eval_bits_per_byte": after["eval_bits_per_byte"],
        "eval_word_perplexity_before": before["eval_word_perplexity"],
        "eval_word_perplexity": after["eval_word_perplexity"],
        "tokens": progress.tokens,
        "target_tokens": progress.target_tokens,
        "tokens_per_second": progress.tokens / progress.seconds,
        "target_tokens_per_second": progress.target_tokens / progress.seconds,
        "seconds": progress.seconds,
        "total_seconds": total_seconds,
        "peak_memory_bytes": peak_process_bytes(),
        "device_peak_memory_bytes": fit.engine.device_peak_bytes(),
        "estimated_memory_bytes": session.placement.estimate.total,
        "trainable_parameters": session.trainable_parameters,
        "train_conversations": len(session.prepared.train.items),
        "eval_conversations": len(session.prepared.held_out.items),
    }
    run.finish(summary)
    return summary


def _write_adapter(session: Session, run: Run, tensors: Tensors) -> None:
    """Write the adapter in the backend's own format, and read it back to be sure."""
    lora = session.config.lora
    adapter = Adapter(
        tensors=tensors,
        r=lora.r,
        alpha=lora.alpha,
        rslora=lora.rslora,
        dropout=lora.dropout,
        targets=target_names(linear_layers(session.model.path), session.layers),
        base=session.config.model,
        base_fingerprint=session.base,
        base_quantization=session.quantization,
    )
    with (
        disk_errors(str(run.adapter), "free some space, then --resume finishes the run"),
        new_directory(run.adapter, replace=True) as directory,
    ):
        if session.selection.name == "mlx":
            write_mlx(adapter, directory, session.shape.layers)
        else:
            write_peft(adapter, directory)
        written = read_adapter(directory)
        if any((written.tensors[name] != tensors[name]).any() for name in tensors):
            raise AdapterError(f"{run.adapter}: reads back otherwise than written; check the disk")
        if not math.isclose(written.alpha, lora.alpha):
            raise AdapterError(f"{run.adapter}: alpha {written.alpha} was written as {lora.alpha}")

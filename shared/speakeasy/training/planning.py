"""Before a run: every choice resolved, the data read, the memory checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.batches.pieces import item_lengths
from speakeasy.batches.types import RenderedSet
from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.errors import BackendError, ModelError, UsageError
from speakeasy.training.backend import Device, Selection, open_backend, select
from speakeasy.training.group import ALONE, Group, processes_here
from speakeasy.training.memory import attended
from speakeasy.training.preflight import place
from speakeasy.training.prepare import prepare
from speakeasy.training.raw_text import prepare_text
from speakeasy.training.session import Session
from speakeasy.training.trackers import check_installed
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.adapters import select_layers
from speakeasy.weights.added import added_ids
from speakeasy.weights.checkpoint import ModelShape, linear_layers, model_shape
from speakeasy.weights.fingerprint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.hub import ModelDirectory, is_local, load_tokenizer, resolve_model
from speakeasy.weights.trained_rows import EMBEDDING, HEAD, TrainedRows, read_from_model
from speakeasy.weights.untrained import untrained_by_matrix

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures whose output is a plain matrix product of the last hidden state, which both
backends' losses rely on."""

Say = Callable[[str], None]


def plan(
    config: TrainConfig | PretrainConfig,
    *,
    selection: Selection | None = None,
    group: Group = ALONE,
    force: bool = False,
    say: Say = lambda line: None,
    bar: Bar = no_bar,
) -> Session:
    """Resolve every choice, read the data, and check that the plan fits. No run is begun.

    Args:
        selection: the backend, where it is chosen already; None to choose by the plan.
        group: the processes that train together; each of them plans.
        force: go on even if the memory estimate says that it does not fit.

    Raises:
        SpeakeasyError: whatever stands in the way, in one line.
    """
    check_installed(config.report_to)
    selection = selection or select(config.backend)
    _check_divisible(config, selection, group)
    backend = open_backend(selection.name)
    device = _share(backend.describe_device(), group)
    together = "" if group.size == 1 else f", {group.size} processes"
    say(f"backend: {selection.name} ({selection.reason}) on {device.name}{together}")
    model = resolve_model(config.model, say=say)
    say(f"model: {model.source}")
    shape = model_shape(model.path)
    _check_supported(config, selection, shape)
    config = _resolved(config, selection, device, model)
    tokenizer = load_tokenizer(model.path)
    tokenizer_base = tokenizer_fingerprint(model.path)
    if isinstance(config, TrainConfig):
        prepared = prepare(
            config.data, tokenizer, config.seed, context=shape.max_positions, say=say, bar=bar
        )
        rows = _rows_for_conversations(config, model.path, tokenizer, prepared.train, say)
    else:
        rows = _rows_for_text(config, model.path, say)
        prepared = prepare_text(
            config.corpus,
            tokenizer,
            tokenizer_base,
            config.seed,
            context=shape.max_positions,
            say=say,
            bar=bar,
        )
    layers = (
        select_layers(linear_layers(model.path), config.lora.targets) if config.trains_lora else {}
    )
    trainable = trainable_parameters(config, shape, layers, rows)
    placement = place(
        config,
        shape,
        trainable,
        selection.name,
        device,
        segment=attended(item_lengths(prepared.train.items)),
        processes=group.size,
        force=force,
    )
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
        rows=rows,
        trainable_parameters=trainable,
        placement=placement,
        base=fingerprint(model.path),
        tokenizer_base=tokenizer_base,
        group=group,
    )


def _share(device: Device, group: Group) -> Device:
    """What one process has of a machine's memory; each has a GPU of its own on CUDA."""
    if device.kind == "cuda":
        return device
    return replace(device, memory=device.memory // processes_here(group))


def trainable_parameters(
    config: TrainConfig | PretrainConfig,
    shape: ModelShape,
    layers: dict[str, tuple[int, int]],
    rows: TrainedRows | None,
) -> int:
    """Numbers that training changes."""
    if isinstance(config, PretrainConfig) and config.train == "full":
        return shape.parameter_count
    adapter = sum((out + into) * config.lora.r for out, into in layers.values())
    if config.lora.dora:
        adapter += sum(out for out, _ in layers.values())
    return adapter + sum(values.size for values in (rows.tensors().values() if rows else ()))


def _check_divisible(
    config: TrainConfig | PretrainConfig, selection: Selection, group: Group
) -> None:
    """Whether the model can be divided here, where the plan has it so."""
    if not config.fsdp:
        return
    if selection.name != "torch":
        raise UsageError(
            f"--fsdp: the {selection.name} backend cannot divide a model; leave it out, go on with "
            "--no-fsdp, or start processes of torch with torchrun"
        )
    if group.size == 1:
        raise UsageError(
            "--fsdp: divides the model among processes, and this one was started alone; start two "
            "or more with torchrun (docs/distributed.md), or go on with --no-fsdp"
        )
    if config.compile:
        raise UsageError(
            "--fsdp with --compile: a program of a block and its gathering have not been tried "
            "together; leave one of them out"
        )


def _check_supported(
    config: TrainConfig | PretrainConfig, selection: Selection, shape: ModelShape
) -> None:
    if shape.model_type not in SUPPORTED:
        raise ModelError(
            f"--model {config.model}: architecture {shape.model_type!r} is not supported; "
            f"expected one of {', '.join(SUPPORTED)}"
        )
    if config.compile and selection.name != "torch":
        raise BackendError(
            f"--compile: is for the torch backend, and this run is on {selection.name}, which "
            "compiles what it can by itself; give --no-compile"
        )
    stored = shape.quantization
    if stored and isinstance(config, PretrainConfig):
        raise ModelError(
            f"--model {config.model}: is quantised already ({stored}), and pre-training writes a "
            "full-precision model; give that, with --use-4bit where memory is short"
        )
    if stored and not (selection.name == "mlx" and stored.startswith("mlx")):
        raise ModelError(
            f"--model {config.model}: is quantised already ({stored}), and the "
            f"{selection.name} backend cannot train on that; take the full-precision model, with "
            f"--use-4bit where memory is short"
        )


def _resolved(
    config: TrainConfig | PretrainConfig,
    selection: Selection,
    device: Device,
    model: ModelDirectory,
) -> Any:
    """The plan with backend, precision and absolute paths."""

    def absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Path(path).resolve()) for path in paths)

    whole = isinstance(config, PretrainConfig) and config.train == "full"
    precision = config.precision
    if precision == "auto":
        precision = "float32" if whole else device.precision
    if isinstance(config, TrainConfig):
        data = replace(
            config.data,
            train=absolute(config.data.train),
            evaluation=absolute(config.data.evaluation),
        )
        config = replace(config, data=data)
    else:
        corpus = replace(
            config.corpus,
            paths=absolute(config.corpus.paths),
            evaluation=absolute(config.corpus.evaluation),
            replay=absolute(config.corpus.replay),
        )
        config = replace(config, corpus=corpus)
    return replace(
        config,
        model=str(model.path) if is_local(config.model) else config.model,
        backend=selection.name,  # type: ignore[arg-type]
        precision=precision,
    )


def _rows_for_conversations(
    config: TrainConfig, model: Path, tokenizer: Any, train: RenderedSet, say: Say
) -> TrainedRows | None:
    """Rows of chat tokens that the base never saw, and of new entries where that was asked for."""
    if model_shape(model).quantization is not None:
        if config.train_rows == "new":
            raise ModelError(
                f"--train-rows new: {model} is quantised, so its rows cannot be trained; give the "
                "full-precision model, with --use-4bit where memory is short"
            )
        return None
    unseen = _unseen(model, tokenizer, train)
    if len(unseen):
        names = ", ".join(tokenizer.convert_ids_to_tokens(unseen.tolist()))
        say(f"rows: {names}: used by the chat template and never trained in this base; trained too")
    ids = set(unseen.tolist())
    if config.train_rows == "new":
        added = added_ids(model)
        if not added:
            raise ModelError(
                f"--train-rows new: {model} has no added entries (no expansion.json); leave it "
                "out, or expand the model with speakeasy vocab expand"
            )
        say(f"rows: {len(added):,} added entries; trained too")
        ids |= set(added)
    return read_from_model(model, sorted(ids)) if ids else None


def _unseen(model: Path, tokenizer: Any, train: RenderedSet) -> np.ndarray:
    """Control tokens in the conversations that the base never read, or never had to write."""
    control = [token for token, found in tokenizer.added_tokens_decoder.items() if found.special]
    matrices = untrained_by_matrix(model)
    read = np.unique(np.concatenate([np.unique(item.tokens_T) for item in train.items]))
    written = np.unique(
        np.concatenate([np.unique(item.tokens_T[item.is_target_T]) for item in train.items])
    )
    unseen = np.intersect1d(matrices[f"{EMBEDDING}.weight"], read)
    if (head := matrices.get(f"{HEAD}.weight")) is not None:
        unseen = np.union1d(unseen, np.intersect1d(head, written))
    return np.intersect1d(unseen, control)


def _rows_for_text(config: PretrainConfig, model: Path, say: Say) -> TrainedRows | None:
    if config.train == "full":
        return None
    added = added_ids(model)
    if not added:
        raise ModelError(
            f"--train {config.train}: {model} has no added entries (no expansion.json); expand it "
            "with speakeasy vocab expand, or give --train full"
        )
    say(f"rows: {len(added):,} added entries")
    return read_from_model(model, added)

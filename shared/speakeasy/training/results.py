"""What a run leaves when it ends: an adapter and rows, or a whole model, and its final figures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speakeasy.config import PretrainConfig
from speakeasy.errors import AdapterError
from speakeasy.files import disk_errors, new_directory, write_file
from speakeasy.training.memory import peak_process_bytes
from speakeasy.training.run import Record, Run
from speakeasy.training.state import Tensors
from speakeasy.weights import trained_rows
from speakeasy.weights.adapters import Adapter, read_adapter, target_names, write_mlx, write_peft
from speakeasy.weights.checkpoint import linear_layers
from speakeasy.weights.directory import companion_files
from speakeasy.weights.fuse import fuse, write_weights
from speakeasy.weights.trained_rows import SUFFIX, TrainedRows

if TYPE_CHECKING:
    from speakeasy.training.loop import Fit
    from speakeasy.training.session import Session

_KEEP = "free some space, then --resume finishes the run"


def finish(session: Session, run: Run, fit: Fit, total_seconds: float) -> Record:
    """Write the best weights, then summary.json, which says that the run has finished."""
    where = write(session, run, fit.best().trainables, fit.progress.best_step)
    progress = fit.progress
    evaluations = {record["step"]: record for record in run.evaluations()}
    before, after = evaluations[0], evaluations[progress.best_step]
    scored = ["eval_loss", "eval_bits_per_byte", "eval_word_perplexity"]
    if "neutral_bits_per_byte" in before:
        scored.append("neutral_bits_per_byte")
    rows = session.rows
    summary: dict[str, Any] = {"run": str(run.path.absolute())}
    if isinstance(session.config, PretrainConfig):
        summary["model_directory"] = str(where.absolute())
    else:
        summary["adapter"] = str(where.absolute())
        summary["adapter_format"] = "mlx-lm" if session.selection.name == "mlx" else "peft"
    summary |= {
        "backend": session.selection.name,
        "reason": session.selection.reason,
        "device": session.device.name,
        "processes": session.group.size,
        "precision": session.config.precision,
        "quantization": session.quantization,
        "measured_on": _measured_on(session),
        "parts": _parts(run, progress.step),
        "model": session.config.model,
        "steps": progress.step,
        "best_step": progress.best_step,
        "train_loss": progress.nats / progress.target_tokens,
    }
    for name in scored:
        summary |= {f"{name}_before": before[name], name: after[name]}
    summary |= {
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
        "trained_rows": 0 if rows is None else len(rows.ids),
        **session.counts,
    }
    if (fitted := run.rows_fitted) is not None:
        summary["rows_fitted"] = fitted
    run.finish(summary)
    return summary


def _measured_on(session: Session) -> str:
    """What held the weights that the figures were measured with."""
    base = f"the base in {session.base_form}"
    if isinstance(session.config, PretrainConfig) and session.quantization is not None:
        return f"{base}; the model written is in full precision"
    return base


def _parts(run: Run, steps: int) -> list[Record]:
    """Which steps ran where."""
    parts = run.parts
    lasts = [part["first_step"] - 1 for part in parts[1:]] + [steps]
    named = ("backend", "device", "precision", "quantization", "platform")
    return [
        {"first_step": part["first_step"], "last_step": last}
        | {key: part[key] for key in named}
        | {"processes": part.get("processes", 1)}
        for part, last in zip(parts, lasts, strict=True)
        if part["first_step"] <= last  # the last may have done no more than write the result
    ]


def write(session: Session, run: Run, tensors: Tensors, step: int) -> Path:
    """Write what was trained, as it was after ``step``, where the run keeps it; returns the place.

    An adapter belongs to the base as it was held. Of a run in which that changed, the last form in
    4 bits up to the step is recorded, whatever came after it.
    """
    if isinstance(session.config, PretrainConfig):
        with disk_errors(str(run.path), _KEEP):
            _write_model(session, run, tensors)
        return run.path
    forms = [p["quantization"] for p in run.parts if p["first_step"] <= max(step, 1)]
    quantization = next((form for form in reversed(forms) if form), None)
    if session.rows is not None:
        with disk_errors(str(run.rows), _KEEP), write_file(run.rows) as file:
            trained_rows.save(session.rows.replaced(tensors), file)
    matrices = _without_rows(tensors)
    with (
        disk_errors(str(run.adapter), _KEEP),
        new_directory(run.adapter, replace=True) as directory,
    ):
        _write_adapter(session, _adapter(session, matrices, quantization), directory)
    return run.adapter


def _without_rows(tensors: Tensors) -> dict[str, np.ndarray]:
    return {name: tensors[name] for name in tensors if not name.endswith(SUFFIX)}


def _adapter(session: Session, matrices: Tensors, quantization: str | None) -> Adapter:
    lora = session.config.lora
    return Adapter(
        tensors=matrices,
        r=lora.r,
        alpha=lora.alpha,
        rslora=lora.rslora,
        dropout=lora.dropout,
        targets=target_names(linear_layers(session.model.path), session.layers),
        base=session.config.model,
        base_fingerprint=session.base,
        base_quantization=quantization,
    )


def _write_adapter(session: Session, adapter: Adapter, directory: Path) -> None:
    """Write the adapter in the backend's own format, and read it back to be sure."""
    matrices = adapter.tensors
    if session.selection.name == "mlx":
        write_mlx(adapter, directory, session.shape.layers)
    else:
        write_peft(adapter, directory)
    written = read_adapter(directory)
    if any((written.tensors[name] != matrices[name]).any() for name in matrices):
        raise AdapterError(f"{directory}: reads back otherwise than written; check the disk")
    if not math.isclose(written.alpha, adapter.alpha):
        raise AdapterError(f"{directory}: alpha {written.alpha} was written as {adapter.alpha}")


def _write_model(session: Session, run: Run, tensors: Tensors) -> None:
    """A complete model directory, made beside and moved into the run's: config.json comes last,
    and without it nothing takes the directory for a model."""
    source = session.model.path
    with new_directory(run.path / "model", replace=True) as directory:
        if session.rows is None:
            write_weights(source, directory, tensors)
        else:
            _merge(session, source, directory, tensors, session.rows.replaced(tensors))
        for file in companion_files(source):
            (directory / file.name).write_bytes(file.read_bytes())
    _publish(run.path / "model", run.path, last="config.json")


def _merge(
    session: Session, source: Path, directory: Path, tensors: Mapping[str, Any], rows: TrainedRows
) -> None:
    matrices = _without_rows(tensors)
    adapter = _adapter(session, matrices, session.quantization) if matrices else None
    fuse(source, directory, adapter=adapter, rows=rows.tables())


def _publish(directory: Path, target: Path, last: str) -> None:
    """Move the files of a whole directory up into ``target``, one of them last."""
    files: Iterable[Path] = sorted(directory.iterdir(), key=lambda file: (file.name == last, file))
    for file in files:
        os.replace(file, target / file.name)
    directory.rmdir()

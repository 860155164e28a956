"""What is made of a finished export on request: a 4-bit copy for MLX, a GGUF file."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.export.gate import Difference, difference, require_near
from speakeasy.export.gguf_check import check_gguf
from speakeasy.export.gguf_file import OF_DTYPE, GgufType, Plan, write_gguf
from speakeasy.export.libraries import Question, asked, quantize_with_mlx, require_mlx_lm
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.checkpoint import linear_layers, model_shape
from speakeasy.weights.fuse import Dtype

MLX_DIRECTORY = "mlx-4bit"
_GROUPS = (64, 32)
_DTYPES: dict[GgufType, Dtype] = {kind: dtype for dtype, kind in OF_DTYPE.items()}


def require_mlx(model: Path) -> int:
    """See that a model can be quantised by mlx-lm; returns how many weights share a scale.

    Raises:
        BackendError: mlx-lm is not installed.
        ModelError: a matrix is too narrow or of an odd width.
    """
    require_mlx_lm()
    widths = {columns for _, columns in linear_layers(model).values()}
    widths.add(model_shape(model).hidden_size)
    for size in _GROUPS:
        if not any(width % size for width in widths):
            return size
    raise ModelError(
        f"--mlx-4bit: matrices of widths {sorted(widths)}; expected multiples of {_GROUPS[-1]}"
    )


def add_mlx_copy(
    folder: Path, group_size: int, question: Question, reference: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Write the 4-bit copy beside the weights; its difference is reported and held to no bound.

    Raises:
        ModelError: mlx-lm cannot make it, or cannot load what it made.
    """
    target = folder / MLX_DIRECTORY
    quantize_with_mlx(folder, target, group_size)
    with asked("mlx-lm", target, question) as reply:
        if isinstance(reply, str):
            raise ModelError(f"--mlx-4bit: {reply}; nothing was written")
        found = difference(reference, reply.logits)
        return {
            "directory": MLX_DIRECTORY,
            "group_size": group_size,
            **asdict(found),
            "answer": reply.answer,
        }


def add_gguf(
    folder: Path,
    name: str,
    plan: Plan,
    question: Question,
    reference: Sequence[np.ndarray],
    *,
    bar: Bar = no_bar,
) -> dict[str, Any]:
    """Write the GGUF file beside the weights, and hold it to what its type explains.

    The tensors and the tokenizer are read back with gguf's own reader; then transformers loads the
    file, where it is installed and knows the rotary embedding.

    Raises:
        ModelError: the file does not hold the model.
    """
    file = folder / f"{name}-{plan.kind.upper()}.gguf"
    write_gguf(folder, file, plan, name=name, bar=bar)
    record: dict[str, Any] = {"file": file.name, "type": plan.kind, "pre": plan.tokenizer.pre}
    record |= check_gguf(folder, file, plan, bar=bar)
    if plan.scaling:
        return record | {"not_checked": "transformers leaves a GGUF file's rotary scaling out"}
    if importlib.util.find_spec("torch") is None:
        return record | {"not_checked": "transformers needs torch to load it"}
    with asked("transformers", folder, question, gguf=file.name) as reply:
        if isinstance(reply, str):
            return record | {"not_checked": reply}
        found = difference(reference, reply.logits)
        _require_gguf(found, plan)
        return record | asdict(found)


def _require_gguf(found: Difference, plan: Plan) -> None:
    dtype = _DTYPES.get(plan.kind)
    if dtype is not None:
        require_near("GGUF", found, dtype)

"""Tiny models as they lie on disk: in any type, tied or not, whole or in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import tiny_llama

from speakeasy.weights import fuse, rows, safetensors_io
from speakeasy.weights.checkpoint import DTYPES, read_tensor, tensor_index
from speakeasy.weights.safetensors_io import write_tensors

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
VOCABULARY = 61


def stored_llama(
    directory: Path,
    dtype: str = "F32",
    *,
    tied: bool = True,
    shards: int = 1,
    vocab_size: int = VOCABULARY,
    scale: float = 1.0,
    **shape: Any,
) -> Path:
    """``tiny_llama``, its matrices times ``scale``, stored as ``dtype`` in ``shards`` files."""
    tiny_llama(directory, vocab_size=vocab_size, tied=tied, **shape)
    tensors = {
        name: (tensor * scale if tensor.ndim == 2 else tensor).astype(DTYPES[dtype])
        for name, tensor in tensors_of(directory).items()
    }
    store(directory, tensors, shards)
    return directory


def store(directory: Path, tensors: dict[str, np.ndarray], shards: int = 1) -> None:
    """Write a model's tensors in place of those that were there."""
    for old in (*directory.glob("*.safetensors"), *directory.glob(INDEX)):
        old.unlink()
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    names = names if shards > 1 else ["model.safetensors"]
    parts = {file: list(tensors)[i::shards] for i, file in enumerate(names)}
    for file, part in parts.items():
        layout = {name: (tensors[name].dtype, tensors[name].shape) for name in part}
        write_tensors(directory / file, layout, ((name, tensors[name]) for name in part))
    if shards > 1:
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {name: file for file, part in parts.items() for name in part},
        }
        (directory / INDEX).write_text(json.dumps(index))


def tensors_of(directory: Path) -> dict[str, np.ndarray]:
    """All tensors of a model."""
    return {name: read_tensor(info) for name, info in tensor_index(directory).items()}


def edit_config(directory: Path, **changes: Any) -> None:
    """Change entries of config.json; ``...`` removes one."""
    file = directory / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def config_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Type, shape and bytes."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def use_small_blocks(monkeypatch: pytest.MonkeyPatch, size: int = 300) -> None:
    """Let streaming passes read a few rows at a time, so that tiny tensors have many blocks."""
    for module in (safetensors_io, rows, fuse):
        monkeypatch.setattr(module, "BLOCK_BYTES", size)

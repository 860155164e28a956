"""A model directory written anew in one pass over its tensors, a block of rows at a time.

What an operation on weights does not name is copied bit for bit, and the files' layout is kept: a
model in shards stays in the same shards. The new ``config.json`` carries both spellings of the
rotary embedding and says outright whether the head is tied, since the libraries' defaults differ.

Nothing larger than a few blocks of ``safetensors_io.BLOCK_BYTES`` is held, whatever the model.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.files import disk_errors, write_json
from speakeasy.weights.checkpoint import model_shape
from speakeasy.weights.directory import read_config, read_json_object, tensor_index
from speakeasy.weights.rope import complete_config
from speakeasy.weights.safetensors_io import (
    DTYPES,
    Block,
    TensorInfo,
    read_header,
    row_blocks,
    write_blocks,
)

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
EDITABLE = ("F32", "F16", "BF16")
"""The stored types in which weights can be changed."""

INDEX = "model.safetensors.index.json"
_GENERATION = "generation_config.json"

Advance = Callable[[int], None]
"""Called with the number of bytes of each block once it is written."""


@dataclass(frozen=True, slots=True)
class Base:
    """A model that is to be written anew.

    Attributes:
        path: its directory.
        config: its ``config.json`` as it stands.
        tensors: all tensors that the new model has, by name. A head that is only a second copy
            of a tied embedding is not among them.
        tied: the output matrix is the embedding matrix.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    tied: bool

    def matrix(self, name: str) -> TensorInfo:
        """A matrix whose values can be changed.

        Raises:
            ModelError: there is none of that name, or not of a type that can be changed.
        """
        info = self.tensors.get(name)
        if info is None:
            raise ModelError(f"{self.path}: no tensor {name!r}; expected a model that has it")
        if len(info.shape) != 2 or info.dtype not in EDITABLE:
            raise ModelError(
                f"{self.path}: {name} is {info.dtype} {info.shape}; expected a matrix of "
                f"{', '.join(EDITABLE)}"
            )
        return info


@dataclass(frozen=True, slots=True)
class Replacement:
    """What a tensor becomes: its type and shape, and its blocks in order, used up once."""

    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Iterable[Block]


def open_base(path: Path, way_out: str) -> Base:
    """A model, checked for what no pass over its tensors could get right.

    Args:
        path: its directory.
        way_out: what to do instead with a quantised model, as the end of the message.

    Raises:
        ModelError: the directory is unsound, or the model quantised; its config says that the
            head is tied, but another one is stored.
    """
    shape = model_shape(path)
    tensors = tensor_index(path)
    if shape.quantization is not None:
        raise ModelError(f"{path}: its weights are stored as {shape.quantization}; {way_out}")
    if shape.tied and HEAD in tensors and EMBEDDING in tensors:
        # transformers ties them only if they are equal; mlx-lm always drops the stored head.
        if not _equal(tensors[EMBEDDING], tensors[HEAD]):
            raise ModelError(
                f"{path}: config.json says tie_word_embeddings true, but {HEAD} differs from "
                f"{EMBEDDING}, so transformers and mlx-lm would make different models of it; set "
                "it to false, or take the model from its maker again"
            )
        tensors = {name: info for name, info in tensors.items() if name != HEAD}
    return Base(path, read_config(path), tensors, shape.tied)


def _equal(one: TensorInfo, other: TensorInfo) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pairs = zip(row_blocks(one), row_blocks(other), strict=True)
    return all(a.tobytes() == b.tobytes() for (_, a), (_, b) in pairs)


def rewrite(
    base: Base,
    target: Path,
    replaced: Mapping[str, Replacement],
    config: Mapping[str, Any] | None = None,
    advance: Advance | None = None,
) -> None:
    """Write a model's weights, their index if it is sharded, ``config.json`` and, where the base
    has one, ``generation_config.json``; other files are the caller's (``companion_files``).

    Args:
        base: the model.
        target: a directory of ``files.new_directory``.
        replaced: the tensors that change; all others are copied.
        config: the entries of ``config.json`` that change.
        advance: progress, for instance of ``cli.common.progress`` over bytes.

    Raises:
        ModelError: the base became unreadable, or its config contradicts itself.
        SpeakeasyError: the disk is full or cannot be written.
    """
    with disk_errors(f"{target}", "nothing was written; free some space or choose another place"):
        for file, tensors in _by_file(base.tensors).items():
            new = {
                name: replaced.get(name) or Replacement(DTYPES[info.dtype], info.shape, [info])
                for name, info in tensors.items()
            }
            write_blocks(
                target / file,
                {name: (tensor.dtype, tensor.shape) for name, tensor in new.items()},
                ((name, tensor.blocks) for name, tensor in new.items()),
                advance,
            )
        if (base.path / INDEX).is_file():
            _write_index(base, target)
        if (base.path / _GENERATION).is_file():
            shutil.copyfile(base.path / _GENERATION, target / _GENERATION)
        changes = {"tie_word_embeddings": base.tied, **(config or {})}
        write_json(target / "config.json", complete_config({**base.config, **changes}))


def _by_file(tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, TensorInfo]]:
    """File name -> its tensors, in the order of their data."""
    files: dict[str, dict[str, TensorInfo]] = {}
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].file, item[1].start)):
        files.setdefault(info.file.name, {})[name] = info
    return files


def _write_index(base: Base, target: Path) -> None:
    """``total_size`` in bytes and the weight map, as transformers' ``save_pretrained`` has them."""
    written: dict[str, TensorInfo] = {}
    for file in _by_file(base.tensors):
        written |= read_header(target / file)[0]
    metadata = read_json_object(base.path / INDEX).get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    metadata["total_size"] = sum(info.nbytes for info in written.values())
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(info.size for info in written.values())
    weight_map = {name: written[name].file.name for name in sorted(written)}
    write_json(target / INDEX, {"metadata": metadata, "weight_map": weight_map})

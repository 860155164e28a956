"""What training made, written into the weights: adapters merged, rows and whole tensors replaced.

``W + scale * B A`` is computed in float32 and cast once to the type in which the model is stored.
For DoRA each row of that is brought to its length first (arXiv 2402.09353, section 4.1). Fusing
into a quantised base would quantise again and can round the adapter away, so only the
full-precision base is taken. A tied model stays tied unless its two ends become different matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.weights.checkpoint import fingerprint, weight_matrices
from speakeasy.weights.lora import Adapter, Lora, check_fits
from speakeasy.weights.rewrite import (
    EMBEDDING,
    HEAD,
    Advance,
    Base,
    Replacement,
    open_base,
    rewrite,
)
from speakeasy.weights.rows import Table, check_tables, set_rows, with_rows
from speakeasy.weights.safetensors_io import (
    BLOCK_BYTES,
    DTYPES,
    FLOATS,
    Block,
    TensorInfo,
    row_blocks,
)
from speakeasy.weights.tied import split_head

Dtype = Literal["bfloat16", "float16", "float32"]

_STORED: dict[str, np.dtype] = {
    "bfloat16": DTYPES["BF16"],
    "float16": DTYPES["F16"],
    "float32": DTYPES["F32"],
}
_WAY_OUT = "fuse into the full-precision model that it was made from"


def fuse(
    source: Path,
    target: Path,
    *,
    adapter: Adapter | None = None,
    rows: Mapping[str, Table] | None = None,
    dtype: Dtype | None = None,
    advance: Advance | None = None,
) -> tuple[str, ...]:
    """A copy of a model with an adapter merged in and rows replaced.

    A tensor that neither touches keeps its bits, unless ``dtype`` asks for another type. Beside the
    adapter, which the caller holds, memory is that of a few blocks.

    Args:
        source: the model's directory, in full precision.
        target: a directory of ``files.new_directory``; gets weights, index and configs.
        adapter: what to merge.
        rows: tensor name -> (ids (n,), values (n, d) float32), as for ``rows.replace_rows``. In a
            tied model, rows of the output matrix untie it.
        dtype: type to store all weights in; None keeps each tensor's own.
        advance: as for ``rewrite.rewrite``.

    Returns:
        The names of the tensors that are no plain copies.

    Raises:
        AdapterError: the adapter was made for another model. Its base's fingerprint is compared
            where it was trained in full precision; of a quantised base only the shapes can be.
        ModelError: the base is unsound or quantised, a table does not fit it, or a value is too
            large for float16.
        SpeakeasyError: the disk is full or cannot be written.
    """
    base = open_base(source, _WAY_OUT)
    loras = _loras(base, adapter) if adapter else {}
    tables = rows or {}
    if base.tied and (HEAD in loras or HEAD in tables):
        base = _untied(base)
    tables = check_tables(base, tables)
    replaced = {}
    for name, info in base.tensors.items():
        stored = DTYPES[info.dtype]
        if dtype is not None and info.dtype in FLOATS:
            stored = _STORED[dtype]
        lora, table = loras.get(name), tables.get(name)
        if lora is not None:
            base.matrix(name)
        if lora is not None or stored != DTYPES[info.dtype]:
            blocks = _edited(name, info, stored, lora, table)
        elif table is not None:
            blocks = with_rows(info, table)
        else:
            continue
        replaced[name] = Replacement(stored, info.shape, blocks)
    keys = [key for key in ("dtype", "torch_dtype") if key in base.config] or ["dtype"]
    config = {} if dtype is None else dict.fromkeys(keys, dtype)
    rewrite(base, target, replaced, config, advance)
    return tuple(replaced)


def write_weights(
    source: Path,
    target: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    advance: Advance | None = None,
) -> None:
    """A copy of a model in which whole tensors have other values, as full training leaves them.

    Args:
        source: the model's directory, in full precision.
        target: a directory of ``files.new_directory``; gets weights, index and configs.
        tensors: name -> values, cast to the type that the model stores. Each is asked for once,
            when it is written, so a mapping may make them as they are needed.
        advance: as for ``rewrite.rewrite``.

    Raises:
        ModelError: the base is unsound or quantised; it has no such tensor, or of another shape.
        SpeakeasyError: the disk is full or cannot be written.
    """
    base = open_base(source, "full training begins from the full-precision model; give that one")
    for name in tensors:
        if name not in base.tensors:
            raise ModelError(f"{source}: no tensor {name!r}; expected the model that was trained")
        if base.tensors[name].dtype not in FLOATS:
            raise ModelError(f"{source}: {name} is {base.tensors[name].dtype}; expected a float")
    replaced = {}
    for name in tensors:
        info = base.tensors[name]
        blocks = _given(name, info, tensors)
        replaced[name] = Replacement(DTYPES[info.dtype], info.shape, blocks)
    rewrite(base, target, replaced, advance=advance)


def _loras(base: Base, adapter: Adapter) -> dict[str, Lora | None]:
    """Tensor name -> what is merged into it; None for an output matrix that only stays behind.

    A tied model's output matrix is among them where it becomes another than the embedding.
    """
    known = fingerprint(base.path) if adapter.base_quantization is None else None
    adapter = split_head(adapter, base.tied)
    matrices = weight_matrices(base.path)
    embedding, head = EMBEDDING.removesuffix(".weight"), HEAD.removesuffix(".weight")
    if base.tied:
        matrices[head] = matrices[embedding]
    check_fits(adapter, matrices, known)
    loras: dict[str, Lora | None] = {f"{m}.weight": adapter.lora(m) for m in adapter.modules}
    if (
        base.tied
        and EMBEDDING in loras
        and _same_change(loras[EMBEDDING], loras.setdefault(HEAD, None))
    ):
        del loras[HEAD]
    return loras


def _same_change(one: Lora | None, other: Lora | None) -> bool:
    return (
        one is not None
        and other is not None
        and one.scale == other.scale
        and other.magnitude is None
        and np.array_equal(one.A, other.A)
        and np.array_equal(one.B, other.B)
    )


def _untied(base: Base) -> Base:
    """The same model with an output matrix of its own, which begins as the embedding."""
    return replace(base, tensors={**base.tensors, HEAD: base.matrix(EMBEDDING)}, tied=False)


def _edited(
    name: str, info: TensorInfo, stored: np.dtype, lora: Lora | None, table: Table | None
) -> Iterator[Block]:
    wide = change = np.empty((0, 0), dtype=np.float32)
    scaled_B = lora.B * np.float32(lora.scale) if lora is not None else None
    for start, block in row_blocks(info):
        count = len(block)
        if not len(wide):  # once for all blocks, of which none is larger than the first
            wide, change = np.empty_like(block, np.float32), np.empty_like(block, np.float32)
        np.copyto(wide[:count], block)
        if lora is not None and scaled_B is not None:
            np.matmul(scaled_B[start : start + count], lora.A, out=change[:count])
            wide[:count] += change[:count]
            if lora.magnitude is not None:
                _to_length(wide[:count], lora.magnitude[start : start + count])
        cast = _cast(name, wide[:count], stored)
        if table is not None:
            set_rows(cast, start, table)
        yield cast


def _to_length(rows: np.ndarray, lengths: np.ndarray) -> None:
    """Scale each row, in place, to its length; a row of zeros has no direction and stays."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    factors = np.divide(lengths, norms, out=np.zeros_like(norms), where=norms > 0)
    rows *= factors[:, None]


def _given(name: str, info: TensorInfo, tensors: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    values = tensors[name]
    if values.shape != info.shape:
        raise ModelError(f"{name}: has shape {values.shape}, but the model's is {info.shape}")
    flat = values.reshape(-1)
    step = BLOCK_BYTES // 4
    for start in range(0, flat.size, step):
        yield _cast(name, flat[start : start + step], DTYPES[info.dtype])


def _cast(name: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)  # a copy in any case: ``values`` may be a buffer
    if dtype == np.float16 and not np.isfinite(cast).all():
        raise ModelError(
            f"{name}: holds values beyond float16's 65504; store the model as bfloat16 or float32"
        )
    return cast

"""What PEFT's files can hold beside LoRA matrices: copies of the base's, and trained rows.

Source: ``get_peft_model_state_dict`` in ``peft/utils/save_and_load.py`` and
``peft/tuners/trainable_tokens/layer.py`` (peft 0.21).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import AdapterError
from speakeasy.weights import adapter_files as files
from speakeasy.weights.directory import tensor_index
from speakeasy.weights.lora import module_of
from speakeasy.weights.refusals import refusal
from speakeasy.weights.rewrite import EDITABLE
from speakeasy.weights.safetensors_io import DTYPES, TensorInfo, read_tensor
from speakeasy.weights.trained_rows import EMBEDDING, HEAD, TrainedRows, read_from_model

_COPY = ".base_layer.weight"
_ROWS = ".token_adapter.trainable_tokens_delta"
_BLOCK_ROWS = 4096


def names(header: Iterable[str]) -> set[str]:
    """Those of an adapter's tensors, without PEFT's prefix, that are of these two kinds."""
    known = {module + kind for module in (EMBEDDING, HEAD) for kind in (_COPY, _ROWS)}
    return known & set(header)


def check_copies(header: Mapping[str, TensorInfo], base: Path | None, file: Path) -> None:
    """Refuse a whole matrix that is not the base's own.

    PEFT saves the frozen matrix too where the embedding or the output matrix is adapted, since it
    may have been resized. Compared in the type of the copy, a block of rows at a time.

    Raises:
        AdapterError: it differs, or the base is not known.
        ModelError: the base is unsound.
    """
    for module in (EMBEDDING, HEAD):
        copy = header.get(module + _COPY)
        if copy is None:
            continue
        if base is None:
            raise refusal("base_layer", file, f"{module}{_COPY} cannot be compared with the base's")
        stored = tensor_index(base)
        own = stored.get(f"{module}.weight") or stored.get(f"{EMBEDDING}.weight")
        if own is None or not _same(copy, own):
            raise refusal("base_layer", file, f"{module}{_COPY} is not that of {base}")


def _same(copy: TensorInfo, own: TensorInfo) -> bool:
    if copy.shape != own.shape or not {copy.dtype, own.dtype} <= set(EDITABLE):
        return False
    dtype = DTYPES[copy.dtype]
    rows = copy.shape[0]
    for start in range(0, rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows)
        ours, theirs = (read_tensor(info.rows(start, stop)) for info in (own, copy))
        if not np.array_equal(ours.astype(dtype), theirs):
            return False
    return True


def read_rows(
    header: Mapping[str, TensorInfo], config: Mapping[str, Any], base: Path | None, directory: Path
) -> TrainedRows | None:
    """Rows of ``trainable_token_indices``; None where there are none.

    PEFT keeps the values that the rows have, in the order of the config, and where the base has
    one matrix for both ends they serve both. Rows of one matrix alone are completed from the base.

    Raises:
        AdapterError: LoRA is on the same matrix; ids and values do not go together; the base is
            needed and not known.
        ModelError: the base is unsound, quantised or smaller.
    """
    found = {
        module: header[module + _ROWS] for module in (EMBEDDING, HEAD) if module + _ROWS in header
    }
    where = directory / files.CONFIG
    ids = _ids(config.get("trainable_token_indices"), where)
    if set(ids) != set(found):
        raise AdapterError(
            f"{where}: trainable_token_indices names {sorted(ids)}, but the file has rows of "
            f"{sorted(found)}; take both files from one save"
        )
    if not found:
        return None
    if both := set(found) & {module_of(name) for name in header}:
        raise refusal("trainable_token_indices", where, f"rows of and LoRA on {both.pop()}")
    if base is None:
        raise AdapterError(
            f"{where}: holds trained rows (trainable_token_indices), which need the base; convert "
            "the adapter (speakeasy convert) with --model"
        )
    rows = read_from_model(base, sorted({i for some in ids.values() for i in some}))
    if rows.head is None and HEAD in found:
        raise refusal("trainable_token_indices", where, "rows of lm_head, which is the embedding")
    tensors = {}
    for module, values in ((EMBEDDING, rows.embedding), (HEAD, rows.head)):
        if values is not None:
            tensors[module + ".rows"] = values
            if module in found:
                tensors[module + ".rows"] = _placed(rows.ids, values, ids[module], found[module])
    return rows.replaced(tensors)


def _ids(said: Any, where: Path) -> dict[str, list[int]]:
    """Module -> token ids, in the order of the rows."""
    by_name = {"embed_tokens": said} if isinstance(said, list) else said or {}
    if not isinstance(by_name, dict):
        raise AdapterError(f"{where}: trainable_token_indices is {said!r}; expected token ids")
    found = {}
    for name, ids in by_name.items():
        module = next((m for m in (EMBEDDING, HEAD) if m == name or m.endswith(f".{name}")), None)
        sound = isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids)
        if module is None or not sound or len(set(ids)) < len(ids):
            raise AdapterError(
                f"{where}: trainable_token_indices has {name!r}: expected token ids, each once, of "
                "embed_tokens or lm_head"
            )
        if ids:
            found[module] = ids
    return found


def _placed(
    all_ids: np.ndarray, values: np.ndarray, ids: list[int], info: TensorInfo
) -> np.ndarray:
    if info.shape != (len(ids), values.shape[1]) or info.dtype not in EDITABLE:
        raise AdapterError(
            f"{info.file}: {info.dtype} {info.shape} for {len(ids)} trained rows of "
            f"{values.shape[1]}; take both files from one save"
        )
    placed = values.copy()
    placed[np.searchsorted(all_ids, ids)] = read_tensor(info).astype(np.float32)
    if not np.isfinite(placed).all():
        raise AdapterError(f"{info.file}: a trained row holds NaN or infinity")
    return placed

"""mlx-lm's LoRA and DoRA adapters: ``adapter_config.json`` and ``adapters.safetensors``.

Source: ``load_adapters`` and ``linear_to_lora_layers`` in ``mlx_lm/tuner/utils.py``, and
``mlx_lm/tuner/lora.py`` and ``dora.py`` (mlx-lm 0.32): ``<module>.lora_a`` (in, r) and
``<module>.lora_b`` (r, out), for the embedding (V, r) and (r, d), for DoRA ``<module>.m`` (out,);
one rank and one scale. ``keys`` name modules within the last ``num_layers`` blocks, or within the
model by their whole path. So a module that is adapted in every block from the lowest on is named
once, any other by its paths, and mlx-lm makes adapters of these modules and no others: there is
none that would have to be filled with zeros, and would be trained if training went on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import AdapterError
from speakeasy.files import write_json
from speakeasy.weights import adapter_files as files
from speakeasy.weights.checkpoint import block_index, layer_order
from speakeasy.weights.lora import (
    A_SUFFIX,
    B_SUFFIX,
    EMBEDDING_A_SUFFIX,
    EMBEDDING_B_SUFFIX,
    MAGNITUDE_SUFFIX,
    Adapter,
    leaf,
    module_of,
)
from speakeasy.weights.refusals import refusal
from speakeasy.weights.tied import join_head
from speakeasy.weights.trained_rows import EMBEDDING, HEAD
from speakeasy.weights.uniform import lost_in, restored, uniform

WEIGHTS = "adapters.safetensors"
KEPT = "lora_b.safetensors"
"""Beside the adapter: matrices B, by canonical name, whose bits folding the scales would lose."""

_IN_BLOCK = re.compile(r"^.*?layers\.(?P<block>\d+)\.(?P<key>.+)$")
_LINEAR = {"lora_a": A_SUFFIX, "lora_b": B_SUFFIX, "m": MAGNITUDE_SUFFIX}
_EMBEDDING = {"lora_a": EMBEDDING_A_SUFFIX, "lora_b": EMBEDDING_B_SUFFIX}


def write(adapter: Adapter, directory: Path, num_layers: int, tied: bool | None = None) -> None:
    """Write an adapter for ``mlx_lm.load``.

    What mlx-lm cannot hold (ranks and alphas of single modules) goes to ``speakeasy.json``.

    Args:
        num_layers: the base's number of blocks.
        tied: whether the base has one matrix for both ends; needed where one is adapted.

    Raises:
        AdapterError: a module lies in a block that the base does not have; mlx-lm cannot hold
            what is done to embedding and output matrix.
    """
    adapter = join_head(adapter, tied)
    blocks = [index for m in adapter.modules if (index := block_index(m)) is not None]
    if blocks and max(blocks) >= num_layers:
        raise AdapterError(
            f"adapter: adapts block {max(blocks)}, but the base has {num_layers} blocks; it was "
            f"made for {adapter.base or 'another base'}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    one = uniform(adapter)
    kept = {} if one is adapter else lost_in(one, adapter)
    first = next(iter(one.modules))
    config = {
        "fine_tune_type": "dora" if one.dora else "lora",
        "model": one.base,
        "num_layers": num_layers - min(blocks, default=num_layers),
        "lora_parameters": {
            "rank": one.r,
            "scale": one.scale(first),
            "dropout": one.dropout,
            "keys": _keys(one.modules, num_layers),
        },
    }
    names = {canonical: name for name, canonical in _names(one.modules, one.dora).items()}
    tensors = {names[name]: tensor.T for name, tensor in one.tensors.items()}
    files.write_float32(directory / WEIGHTS, tensors)
    if kept:
        files.write_float32(directory / KEPT, kept)
    files.write_provenance(adapter, directory, **_record(adapter))
    write_json(directory / files.CONFIG, config)


def _names(modules: Iterable[str], dora: bool) -> dict[str, str]:
    """mlx-lm's name of each tensor -> the canonical name."""
    return {
        f"{module}.{kind}": module + suffix
        for module in modules
        for kind, suffix in (_EMBEDDING if module == EMBEDDING else _LINEAR).items()
        if dora or kind != "m"
    }


def _record(adapter: Adapter) -> dict[str, Any]:
    found: dict[str, Any] = {
        "alpha": files.plain(adapter.alpha),
        "rslora": adapter.rslora,
        "targets": list(adapter.targets),
    }
    if adapter.ranks or adapter.alphas:
        found |= {"r": adapter.r, "ranks": dict(adapter.ranks), "alphas": dict(adapter.alphas)}
    return found


def _keys(modules: Iterable[str], num_layers: int) -> list[str]:
    """What selects exactly these modules, for ``linear_to_lora_layers``."""
    in_blocks: dict[str, dict[int, str]] = {}
    outside = []
    for module in modules:
        if match := _IN_BLOCK.match(module):
            in_blocks.setdefault(match["key"], {})[int(match["block"])] = module
        else:
            outside.append(module)
    lowest = min((block for found in in_blocks.values() for block in found), default=0)
    every = set(range(lowest, num_layers))
    keys = set(outside)
    for key, found in in_blocks.items():
        keys |= {key} if set(found) == every else set(found.values())
    return sorted(keys)


def read(directory: Path, *, own: bool = True) -> Adapter:
    """Read an adapter that mlx-lm or speakeasy wrote.

    mlx-lm keeps only the scale. Without speakeasy's own file beside it, alpha is scale times rank.

    Args:
        own: heed ``speakeasy.json``; else the adapter is as mlx-lm has it.

    Raises:
        AdapterError: full fine-tuning, or a tensor that ``Adapter`` cannot represent; the files
            contradict ``speakeasy.json``.
        ModelError: a file is not sound.
    """
    config = files.read_config(directory)
    where = directory / files.CONFIG
    kind, parameters = config.get("fine_tune_type", "lora"), config.get("lora_parameters")
    if kind not in ("lora", "dora"):
        raise refusal("fine_tune_type", where, f"fine_tune_type {kind!r}")
    if not isinstance(parameters, dict):
        raise AdapterError(f"{where}: lora_parameters is {parameters!r}; expected rank and scale")
    tensors = _tensors(directory / WEIGHTS)
    provenance = files.read_provenance(directory) if own else {}
    rank, scale = (
        files.count(parameters, "rank", directory),
        files.number(parameters, "scale", directory),
    )
    modules = {module for name in tensors if (module := module_of(name))}
    num_layers = files.count(config, "num_layers", directory)
    one = Adapter(
        tensors=tensors,
        r=rank,
        alpha=scale * rank,
        rslora=False,
        dropout=files.number(parameters, "dropout", directory, 0.0),
        targets=files.names(provenance, "targets", directory) or _targets(modules, num_layers),
        base=provenance.get("base") or files.text(config, "model", directory),
        base_fingerprint=provenance.get("base_fingerprint"),
        base_quantization=provenance.get("base_quantization"),
        head_follows=EMBEDDING in modules and HEAD not in modules,
    )
    if one.dora != (kind == "dora"):
        raise AdapterError(
            f"{where}: fine_tune_type {kind!r}, but the file has {'' if one.dora else 'no '}"
            "magnitudes; take both files from one save"
        )
    return _as_recorded(one, scale, provenance, directory)


def _tensors(file: Path) -> dict[str, np.ndarray]:
    """Canonical name -> float32 array."""
    tensors = {}
    for name, tensor in files.read_float32(file).items():
        module, _, kind = name.rpartition(".")
        if module == EMBEDDING and kind == "m":
            raise refusal("embedding_dora", file, name)
        canonical = module + (_EMBEDDING if module == EMBEDDING else _LINEAR).get(kind, "?")
        if kind in _LINEAR and tensor.ndim == 3:
            raise refusal("expert_layers", file, f"{name} {tensor.shape}")
        if module_of(canonical) is None or tensor.ndim != (1 if kind == "m" else 2):
            raise refusal("unknown_tensor", file, f"{name} {tensor.shape}")
        tensors[canonical] = np.ascontiguousarray(tensor.T)
    return tensors


def _as_recorded(
    one: Adapter, scale: float, provenance: Mapping[str, Any], directory: Path
) -> Adapter:
    """The ranks and alphas that ``speakeasy.json`` tells of, if the tensors still agree with it."""
    alpha = provenance.get("alpha")
    rslora = files.flag(provenance, "rslora", directory / files.PROVENANCE)
    if alpha is None:
        return one
    contradicts = (
        "delete speakeasy.json if the adapter was changed on purpose, and what was recorded is gone"
    )
    if "ranks" not in provenance:
        alpha = files.number(provenance, "alpha", directory)
        said = alpha / (math.sqrt(one.r) if rslora else one.r)
        if not math.isclose(said, scale, rel_tol=1e-6):
            raise AdapterError(
                f"{directory / files.CONFIG}: scale {scale}, but speakeasy.json says alpha {alpha},"
                f" which is scale {said}; {contradicts}"
            )
        return restored(one, one.r, alpha, rslora, {}, {})
    ranks, alphas = (files.numbers(provenance, key, directory) for key in ("ranks", "alphas"))
    kept = files.read_float32(directory / KEPT) if (directory / KEPT).is_file() else {}
    found = restored(
        one,
        files.count(provenance, "r", directory),
        files.number(provenance, "alpha", directory),
        rslora,
        {module: int(rank) for module, rank in ranks.items()},
        alphas,
        kept,
    )
    again = uniform(found)
    if not math.isclose(again.scale(next(iter(again.modules))), scale, rel_tol=1e-12) or any(
        again.tensors[name].tobytes() != tensor.tobytes() for name, tensor in one.tensors.items()
    ):
        raise AdapterError(
            f"{directory / WEIGHTS}: not what speakeasy.json describes; {contradicts}"
        )
    return found


def _targets(modules: set[str], num_layers: int) -> tuple[str, ...]:
    """Leaf names where all blocks are adapted alike, else whole paths.

    Blocks are counted from the end, so only an adapter that begins at block 0 is known to cover
    the whole model.
    """
    outside = {module for module in modules if block_index(module) is None}
    inside = modules - outside
    blocks = {block_index(module) for module in inside}
    names = {leaf(module) for module in inside}
    whole = blocks == set(range(num_layers))
    if whole and len(names) * len(blocks) == len(inside):
        return tuple(sorted(names | outside, key=layer_order))
    return tuple(sorted(modules, key=layer_order))

"""mlx-lm's LoRA adapters: ``adapter_config.json`` and ``adapters.safetensors``.

Source: ``load_adapters`` and ``linear_to_lora_layers`` in ``mlx_lm/tuner/utils.py`` and
``mlx_lm/tuner/lora.py`` (mlx-lm 0.32): ``<module>.lora_a`` (in, r), ``<module>.lora_b`` (r, out),
one rank and scale, on the last ``num_layers`` blocks, on the modules that ``keys`` name within a
block. mlx-lm refuses tensors that it did not expect but not the lack of one: such a module keeps
its fresh ``lora_b`` of zeros, so it adds nothing and needs no entry in the file.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import AdapterError
from speakeasy.files import write_json
from speakeasy.weights import adapter_files as files
from speakeasy.weights.checkpoint import block_index
from speakeasy.weights.lora import (
    A_SUFFIX,
    B_SUFFIX,
    Adapter,
    leaf,
    merge_scale,
)

WEIGHTS = "adapters.safetensors"
_IN_BLOCK = re.compile(r"^(?P<blocks>.*?layers)\.(?P<block>\d+)\.(?P<key>.+)$")


def write(adapter: Adapter, directory: Path, num_layers: int) -> None:
    """Write an adapter for ``mlx_lm.load``; ``num_layers`` is the base's number of blocks.

    Raises:
        AdapterError: a module lies in a block that the base does not have.
    """
    parts = [match for m in adapter.modules if (match := _IN_BLOCK.match(m))]
    blocks = [int(match["block"]) for match in parts]
    if max(blocks) >= num_layers:
        raise AdapterError(
            f"adapter: adapts block {max(blocks)}, but the base has {num_layers} blocks; it was "
            f"made for {adapter.base or 'another base'}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "fine_tune_type": "lora",
        "model": adapter.base,
        "num_layers": num_layers - min(blocks),
        "lora_parameters": {
            "rank": adapter.r,
            "scale": merge_scale(adapter),
            "dropout": adapter.dropout,
            "keys": sorted({match["key"] for match in parts}),
        },
    }
    tensors = {}
    for module in adapter.modules:
        tensors[f"{module}.lora_a"] = adapter.tensors[module + A_SUFFIX].T
        tensors[f"{module}.lora_b"] = adapter.tensors[module + B_SUFFIX].T
    files.write_float32(directory / WEIGHTS, tensors)
    files.write_provenance(
        adapter,
        directory,
        alpha=files.plain(adapter.alpha),
        rslora=adapter.rslora,
        targets=list(adapter.targets),
    )
    write_json(directory / files.CONFIG, config)


def read(directory: Path) -> Adapter:
    """Read an adapter that mlx-lm or speakeasy wrote.

    mlx-lm keeps only the scale. Without speakeasy's own file beside it, alpha is scale times rank.

    Raises:
        AdapterError: DoRA, full fine-tuning, or a tensor that ``Adapter`` cannot represent; the
            config contradicts ``speakeasy.json``.
        ModelError: a file is not sound.
    """
    config = files.read_config(directory)
    kind = config.get("fine_tune_type", "lora")
    parameters = config.get("lora_parameters")
    if kind != "lora" or not isinstance(parameters, dict):
        raise AdapterError(
            f"{directory / files.CONFIG}: fine_tune_type {kind!r}; expected 'lora' with "
            "lora_parameters"
        )
    tensors = {}
    for name, tensor in files.read_float32(directory / WEIGHTS).items():
        module, _, kind = name.rpartition(".")
        suffix = {"lora_a": A_SUFFIX, "lora_b": B_SUFFIX}.get(kind)
        if suffix is None or tensor.ndim != 2:
            raise AdapterError(
                f"{directory / WEIGHTS}: {name} {tensor.shape} is not supported; expected lora_a "
                "and lora_b of linear layers"
            )
        tensors[module + suffix] = np.ascontiguousarray(tensor.T)
    provenance = files.read_provenance(directory)
    rank = int(files.number(parameters, "rank", directory))
    alpha, rslora = _alpha(
        directory, rank, files.number(parameters, "scale", directory), provenance
    )
    num_layers = int(files.number(config, "num_layers", directory))
    modules = {name.removesuffix(A_SUFFIX) for name in tensors if name.endswith(A_SUFFIX)}
    return Adapter(
        tensors=tensors,
        r=rank,
        alpha=alpha,
        rslora=rslora,
        dropout=files.number(parameters, "dropout", directory, 0.0),
        targets=tuple(provenance.get("targets") or _targets(modules, num_layers)),
        base=str(provenance.get("base") or config.get("model") or ""),
        base_fingerprint=provenance.get("base_fingerprint"),
        base_quantization=provenance.get("base_quantization"),
    )


def _alpha(
    directory: Path, rank: int, scale: float, provenance: dict[str, Any]
) -> tuple[float, bool]:
    alpha, rslora = provenance.get("alpha"), bool(provenance.get("rslora"))
    if not isinstance(alpha, int | float):
        return scale * rank, False
    said = alpha / (math.sqrt(rank) if rslora else rank)
    if not math.isclose(said, scale, rel_tol=1e-6):
        raise AdapterError(
            f"{directory / files.CONFIG}: scale {scale}, but speakeasy.json says alpha {alpha}, "
            f"which is scale {said}; delete speakeasy.json if the config was changed on purpose"
        )
    return alpha, rslora


def _targets(modules: set[str], num_layers: int) -> tuple[str, ...]:
    """Leaf names where all blocks are adapted alike, else whole paths.

    Blocks are counted from the end, so only an adapter that begins at block 0 is known to cover
    the whole model.
    """
    blocks = {block_index(module) for module in modules}
    names = {leaf(module) for module in modules}
    whole = blocks == set(range(num_layers))
    if whole and len(names) * len(blocks) == len(modules):
        return tuple(sorted(names))
    return tuple(sorted(modules))

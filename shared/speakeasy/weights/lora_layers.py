"""Which layers LoRA adapts, and what its matrices are before the first step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np

from speakeasy.errors import UsageError
from speakeasy.weights.checkpoint import ModelShape, layer_order
from speakeasy.weights.lora import A_SUFFIX, B_SUFFIX, leaf, matches

ATTENTION = "self_attn"
MLP = "mlp"


def draw_lora(layers: Mapping[str, tuple[int, int]], r: int, seed: int) -> dict[str, np.ndarray]:
    """Fresh LoRA matrices: A uniform in ±1/sqrt(in), B zero.

    That is PEFT's ``kaiming_uniform_(a=sqrt(5))`` and mlx-lm's own draw. Each module has a
    generator of its own, seeded by ``seed`` and its name, so neither the order of the modules nor
    which others are adapted changes its draw.

    Args:
        layers: module -> (out, in).
        r: the rank.
        seed: any whole number from 0.

    Returns:
        canonical name -> float32 array, sorted by block and name.

    Raises:
        UsageError: the rank is below 1.
    """
    if r < 1:
        raise UsageError(f"--lora-r {r}: rank must be at least 1")
    tensors: dict[str, np.ndarray] = {}
    for module in sorted(layers, key=layer_order):
        rows, columns = layers[module]
        name_seed = int.from_bytes(hashlib.sha256(module.encode()).digest()[:8], "little")
        generator = np.random.Generator(np.random.PCG64([seed, name_seed]))
        bound = np.float32(1 / math.sqrt(columns))
        uniform = generator.random((r, columns), dtype=np.float32)
        tensors[module + A_SUFFIX] = (2 * uniform - 1) * bound
        tensors[module + B_SUFFIX] = np.zeros((rows, r), dtype=np.float32)
    return tensors


def block_layers(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """The linear layers of all blocks of a Llama-like model, canonical name -> (out, in)."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {
        f"model.layers.{block}.{name}": size
        for block in range(shape.layers)
        for name, size in sizes.items()
    }


def select_layers(
    layers: Mapping[str, tuple[int, int]], targets: str
) -> dict[str, tuple[int, int]]:
    """The layers that ``--lora-targets`` names, in the order of ``layers``.

    Args:
        layers: ``checkpoint.linear_layers`` of the base.
        targets: ``all-linear``, ``attention``, ``mlp``, or names separated by commas: the end of
            a path (``q_proj``, ``self_attn.q_proj``) or a whole one.

    Raises:
        UsageError: a name matches nothing; the message lists what there is.
    """
    if targets == "all-linear":
        return dict(layers)
    if targets in ("attention", "mlp"):
        part = ATTENTION if targets == "attention" else MLP
        chosen = {module for module in layers if part in module.split(".")}
        if not chosen:
            raise _no_target(targets, layers)
    else:
        chosen = set()
        for target in targets.split(","):
            found = {module for module in layers if matches(module, target.strip())}
            if not found:
                raise _no_target(target.strip(), layers)
            chosen |= found
    return {module: shape for module, shape in layers.items() if module in chosen}


def _no_target(target: str, layers: Iterable[str]) -> UsageError:
    leaves = ", ".join(dict.fromkeys(leaf(module) for module in layers))
    return UsageError(
        f"--lora-targets {target!r}: no such linear layer; expected all-linear, attention, mlp, or "
        f"some of {leaves}"
    )


def target_names(layers: Iterable[str], chosen: Iterable[str]) -> tuple[str, ...]:
    """The shortest exact targets of ``chosen`` among ``layers``, for ``Adapter.targets``.

    A leaf name where every layer of that name was chosen, else whole paths; sorted.
    """
    wanted = set(chosen)
    partial = {leaf(module) for module in layers if module not in wanted}
    names = {module if leaf(module) in partial else leaf(module) for module in wanted}
    return tuple(sorted(names, key=layer_order))

"""LoRA adapters in one canonical form, whatever library wrote them.

Canonical is PEFT's orientation, in float32: for a linear layer ``y = W x`` with W (out, in),
``y += scale * B A x`` with ``<module>.lora_A.weight`` (r, in) and ``<module>.lora_B.weight``
(out, r), where scale is alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv 2106.09685, 2312.03732).
``<module>`` is the layer's path in transformers, such as ``model.layers.0.self_attn.q_proj``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from speakeasy.errors import AdapterError, UsageError
from speakeasy.weights.checkpoint import block_index, layer_order

A_SUFFIX = ".lora_A.weight"
B_SUFFIX = ".lora_B.weight"
ATTENTION = "self_attn"
MLP = "mlp"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on linear layers inside the blocks; one rank and scale for all of them.

    Attributes:
        tensors: canonical name -> float32 array, an A (r, in) and a B (out, r) for each module.
        r: the rank.
        alpha: the numerator of the scale.
        rslora: whether the scale is alpha / sqrt(r).
        dropout: probability that training drops an input; nothing at inference.
        targets: names that match exactly the adapted modules of the base, as PEFT matches them
            (the whole path, or its end after a dot): ``q_proj``, or a path in full.
        base: the base model's name or directory; empty where unknown.
        base_fingerprint: ``checkpoint.fingerprint`` of the base; None where unknown.
        base_quantization: what the base was held in during training, such as ``nf4`` or
            ``mlx 4-bit``; None for full precision, or where unknown.

    Raises:
        AdapterError: a matrix is missing, misshapen, outside the blocks or not float32; targets
            and modules do not match.
    """

    tensors: Mapping[str, np.ndarray]
    r: int
    alpha: float
    rslora: bool
    dropout: float
    targets: tuple[str, ...]
    base: str
    base_fingerprint: str | None = None
    base_quantization: str | None = None

    def __post_init__(self) -> None:
        if self.r < 1 or not math.isfinite(self.alpha):
            raise AdapterError(f"adapter: rank {self.r} and alpha {self.alpha} are no LoRA's")
        for name, tensor in self.tensors.items():
            module = module_of(name)
            if module is None or block_index(module) is None:
                raise AdapterError(
                    f"adapter: tensor {name!r} is not the A or B of a linear layer inside a block "
                    "(embeddings, the output matrix and whole modules are not supported)"
                )
            is_a = name.endswith(A_SUFFIX)
            if tensor.dtype != np.float32 or tensor.ndim != 2:
                raise AdapterError(f"adapter: {name} is {tensor.dtype} {tensor.shape}")
            if tensor.shape[0 if is_a else 1] != self.r:
                raise AdapterError(f"adapter: {name} has shape {tensor.shape}, but rank {self.r}")
            if module + (B_SUFFIX if is_a else A_SUFFIX) not in self.tensors:
                raise AdapterError(f"adapter: {module} has only one of lora_A and lora_B")
        modules = self.modules
        if not modules:
            raise AdapterError("adapter: holds no LoRA matrices")
        for module in modules:
            if not any(matches(module, target) for target in self.targets):
                raise AdapterError(f"adapter: {module} is none of its targets {self.targets}")
        for target in self.targets:
            if not any(matches(module, target) for module in modules):
                raise AdapterError(f"adapter: target {target!r} has no matrices")

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """Adapted module -> (out, in), sorted by block and name."""
        names = {module for name in self.tensors if (module := module_of(name))}
        return {
            module: (
                self.tensors[module + B_SUFFIX].shape[0],
                self.tensors[module + A_SUFFIX].shape[1],
            )
            for module in sorted(names, key=layer_order)
        }


def module_of(tensor: str) -> str | None:
    """The module that a canonical tensor name belongs to; None for any other name."""
    for suffix in (A_SUFFIX, B_SUFFIX):
        if tensor.endswith(suffix):
            return tensor.removesuffix(suffix)
    return None


def matches(module: str, target: str) -> bool:
    """Whether a target names a module (``check_target_module_exists`` of PEFT, lists only)."""
    return module == target or module.endswith(f".{target}")


def merge_scale(adapter: Adapter) -> float:
    """The factor of B A when the adapter is applied to, or merged into, its base."""
    return adapter.alpha / (math.sqrt(adapter.r) if adapter.rslora else adapter.r)


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


def leaf(module: str) -> str:
    """The last part of a module's path: ``q_proj``."""
    return module.rpartition(".")[2]


def target_names(layers: Iterable[str], chosen: Iterable[str]) -> tuple[str, ...]:
    """The shortest exact targets of ``chosen`` among ``layers``, for ``Adapter.targets``.

    A leaf name where every layer of that name was chosen, else whole paths; sorted.
    """
    wanted = set(chosen)
    partial = {leaf(module) for module in layers if module not in wanted}
    names = {module if leaf(module) in partial else leaf(module) for module in wanted}
    return tuple(sorted(names, key=layer_order))


def check_fits(
    adapter: Adapter, layers: Mapping[str, tuple[int, int]], fingerprint: str | None = None
) -> None:
    """Refuse an adapter that was made for another base.

    Args:
        adapter: the adapter.
        layers: ``checkpoint.linear_layers`` of the base at hand.
        fingerprint: the base's; compared where both sides know theirs.

    Raises:
        AdapterError: a module is missing or has another shape, or the fingerprints differ.
    """
    made_for = f"the adapter was made for {adapter.base or 'another base'}; give that as --model"
    for module, shape in adapter.modules.items():
        if module not in layers:
            raise AdapterError(f"{module}: not in this model; {made_for}")
        if layers[module] != shape:
            raise AdapterError(
                f"{module}: the adapter's is {shape}, the model's {layers[module]}; {made_for}"
            )
    known = adapter.base_fingerprint
    if fingerprint is not None and known is not None and fingerprint != known:
        raise AdapterError(
            f"base model: fingerprint {fingerprint[:12]}, but the adapter's base has {known[:12]}: "
            f"same shapes, other weights; {made_for}"
        )

"""LoRA and DoRA adapters in one canonical form, whatever library wrote them.

Canonical are PEFT's names and orientation, in float32. For a linear layer ``y = W x`` with
W (out, in), ``y += scale * B A x`` with ``<module>.lora_A.weight`` (r, in) and
``<module>.lora_B.weight`` (out, r). For the embedding E (V, d), ``E += scale * (B A)^T`` with
``<module>.lora_embedding_A`` (r, V) and ``<module>.lora_embedding_B`` (d, r). The scale is
alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv 2106.09685, 2312.03732), with each module's own
rank and alpha. DoRA (arXiv 2402.09353) adds ``<module>.lora_magnitude_vector`` (out,): the adapted
weight is ``m * (W + scale B A) / ||W + scale B A||``, with the norm of each row.
``<module>`` is the layer's path in transformers, such as ``model.layers.0.self_attn.q_proj``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from speakeasy.errors import AdapterError
from speakeasy.weights.checkpoint import block_index, layer_order
from speakeasy.weights.trained_rows import EMBEDDING, HEAD

A_SUFFIX = ".lora_A.weight"
B_SUFFIX = ".lora_B.weight"
EMBEDDING_A_SUFFIX = ".lora_embedding_A"
EMBEDDING_B_SUFFIX = ".lora_embedding_B"
MAGNITUDE_SUFFIX = ".lora_magnitude_vector"
_SUFFIXES = (A_SUFFIX, B_SUFFIX, EMBEDDING_A_SUFFIX, EMBEDDING_B_SUFFIX, MAGNITUDE_SUFFIX)


@dataclass(frozen=True, slots=True)
class Lora:
    """What an adapter does to one matrix ``<module>.weight`` W (rows, columns).

    W becomes W + scale * B A, and with a magnitude each row of that is scaled to its length. For
    the embedding this is the change of E (V, d), so A and B are transposed and swapped.

    Attributes:
        A: (r, columns) float32.
        B: (rows, r) float32.
        scale: the factor of B A.
        magnitude: (rows,) float32 for DoRA, else None.
    """

    A: np.ndarray
    B: np.ndarray
    scale: float
    magnitude: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA or DoRA adapter of linear layers in blocks, the embedding and the output matrix.

    Attributes:
        tensors: canonical name -> float32 array: an A and a B for each module, and for DoRA a
            magnitude for each.
        r: the rank, where ``ranks`` says nothing.
        alpha: the numerator of the scale, where ``alphas`` says nothing.
        rslora: whether the scale is alpha / sqrt(r).
        dropout: probability that training drops an input; nothing at inference.
        targets: names that match exactly the adapted modules of the base, as PEFT matches them
            (the whole path, or its end after a dot): ``q_proj``, or a path in full.
        base: the base model's name or directory; empty where unknown.
        base_fingerprint: ``checkpoint.fingerprint`` of the base; None where unknown.
        base_quantization: what the base was held in during training, such as ``nf4`` or
            ``mlx 4-bit``; None for full precision, or where unknown.
        ranks: module -> its rank, for those whose rank is not ``r``.
        alphas: module -> its alpha, for those whose alpha is not ``alpha``.
        head_follows: where the base has one matrix for both ends, the embedding's change is
            meant for the output too, as mlx-lm has it; PEFT's changes the input alone.

    Raises:
        AdapterError: a matrix is missing, misshapen, of another module or not float32; some
            modules have magnitudes and some not; targets and modules do not match.
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
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    head_follows: bool = False

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if module_of(name) is None:
                raise AdapterError(
                    f"adapter: tensor {name!r} is not LoRA's; expected A, B or a magnitude of a "
                    "linear layer in a block, the embedding or the output matrix"
                )
            if tensor.dtype != np.float32:
                raise AdapterError(f"adapter: {name} is {tensor.dtype}; expected float32")
        modules = self._names()
        if not modules:
            raise AdapterError("adapter: holds no LoRA matrices")
        dora = self.dora
        for module in modules:
            self._check(module, dora)
        for module in (*self.ranks, *self.alphas):
            if module not in modules:
                raise AdapterError(f"adapter: a rank or alpha for {module!r}, which is not adapted")
        for target in self.targets:
            if not any(matches(module, target) for module in modules):
                raise AdapterError(f"adapter: target {target!r} has no matrices")

    def _check(self, module: str, dora: bool) -> None:
        a, b = pair(module)
        rank, alpha = self.rank(module), self.alphas.get(module, self.alpha)
        if rank < 1 or not math.isfinite(alpha):
            raise AdapterError(f"adapter: {module}: rank {rank}, alpha {alpha} are no LoRA's")
        if a not in self.tensors or b not in self.tensors:
            raise AdapterError(
                f"adapter: {module} has only one of {_kind(a)} and {_kind(b)}; the file is "
                "incomplete"
            )
        for name, axis in ((a, 0), (b, 1)):
            shape = self.tensors[name].shape
            if len(shape) != 2 or shape[axis] != rank or 0 in shape:
                raise AdapterError(f"adapter: {name} has shape {shape}, but rank {rank}")
        magnitude = self.tensors.get(module + MAGNITUDE_SUFFIX)
        if (magnitude is not None) != dora:
            raise AdapterError(f"adapter: {module} has no lora_magnitude_vector, as others have")
        rows = self.tensors[b].shape[0]
        if magnitude is not None and magnitude.shape != (rows,):
            raise AdapterError(
                f"adapter: {module}{MAGNITUDE_SUFFIX} has shape {magnitude.shape}; expected "
                f"({rows},)"
            )
        if not any(matches(module, target) for target in self.targets):
            raise AdapterError(f"adapter: {module} is none of its targets {self.targets}")

    def _names(self) -> list[str]:
        names = {module for name in self.tensors if (module := module_of(name))}
        return sorted(names, key=layer_order)

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """Adapted module -> (rows, columns) of its weight, sorted by block and name."""
        return {
            module: (lora.B.shape[0], lora.A.shape[1])
            for module in self._names()
            for lora in (self.lora(module),)
        }

    @property
    def dora(self) -> bool:
        """Whether the modules have magnitudes."""
        return any(name.endswith(MAGNITUDE_SUFFIX) for name in self.tensors)

    def rank(self, module: str) -> int:
        """The rank of a module's matrices."""
        return self.ranks.get(module, self.r)

    def scale(self, module: str) -> float:
        """The factor of B A for a module."""
        rank = self.rank(module)
        return self.alphas.get(module, self.alpha) / (math.sqrt(rank) if self.rslora else rank)

    def lora(self, module: str) -> Lora:
        """What is done to a module's weight; its arrays are views of ``tensors``."""
        a, b = (self.tensors[name] for name in pair(module))
        if module == EMBEDDING:
            a, b = b.T, a.T
        return Lora(a, b, self.scale(module), self.tensors.get(module + MAGNITUDE_SUFFIX))


def pair(module: str) -> tuple[str, str]:
    """The canonical names of a module's A and B."""
    if module == EMBEDDING:
        return module + EMBEDDING_A_SUFFIX, module + EMBEDDING_B_SUFFIX
    return module + A_SUFFIX, module + B_SUFFIX


def _kind(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def module_of(tensor: str) -> str | None:
    """The module that a canonical tensor name belongs to; None for any other name."""
    for suffix in _SUFFIXES:
        module = tensor.removesuffix(suffix)
        if module == tensor:
            continue
        if module == EMBEDDING:
            return module if suffix in (EMBEDDING_A_SUFFIX, EMBEDDING_B_SUFFIX) else None
        of_linear = suffix in (A_SUFFIX, B_SUFFIX, MAGNITUDE_SUFFIX)
        return module if of_linear and (module == HEAD or block_index(module) is not None) else None
    return None


def matches(module: str, target: str) -> bool:
    """Whether a target names a module (``check_target_module_exists`` of PEFT, lists only)."""
    return module == target or module.endswith(f".{target}")


def leaf(module: str) -> str:
    """The last part of a module's path: ``q_proj``."""
    return module.rpartition(".")[2]


def check_fits(
    adapter: Adapter, layers: Mapping[str, tuple[int, int]], fingerprint: str | None = None
) -> None:
    """Refuse an adapter that was made for another base.

    Args:
        adapter: the adapter.
        layers: ``checkpoint.weight_matrices`` of the base at hand, or ``linear_layers`` where
            embedding and output matrix cannot be adapted.
        fingerprint: the base's; compared where both sides know theirs.

    Raises:
        AdapterError: a module is missing or has another shape, or the fingerprints differ.
    """
    made_for = f"the adapter was made for {adapter.base or 'another base'}; give that as --model"
    for module, shape in adapter.modules.items():
        if module not in layers:
            if module in (EMBEDDING, HEAD):
                raise AdapterError(
                    f"{module}: no backend adapts the embedding or the output matrix; write the "
                    "adapter into the model (speakeasy export) and give that"
                )
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

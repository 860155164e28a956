"""LoRA on the embedding of models that have one matrix for both ends.

There mlx-lm's LoRA on the embedding changes input and output. PEFT's changes the input alone, and
what is on ``lm_head`` the output alone: mlx-lm's meaning is PEFT's pair with the same matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from speakeasy.errors import AdapterError
from speakeasy.weights.checkpoint import layer_order
from speakeasy.weights.lora import Adapter, module_of, pair
from speakeasy.weights.refusals import refusal
from speakeasy.weights.trained_rows import EMBEDDING, HEAD

Number = TypeVar("Number", int, float)


def split_head(adapter: Adapter, tied: bool | None) -> Adapter:
    """The adapter as PEFT has it: what the output gets stands on ``lm_head`` too.

    Args:
        tied: whether the base has one matrix for both ends.

    Raises:
        AdapterError: that must be known and is not.
    """
    if not adapter.head_follows:
        return adapter
    if EMBEDDING not in adapter.modules or _known(tied) is False:
        return replace(adapter, head_follows=False)
    (a, b), lora = pair(HEAD), adapter.lora(EMBEDDING)
    return replace(
        adapter,
        tensors={**adapter.tensors, a: lora.A.copy(order="C"), b: lora.B.copy(order="C")},
        targets=tuple(sorted({*adapter.targets, HEAD}, key=layer_order)),
        ranks=_with_head(adapter.ranks),
        alphas=_with_head(adapter.alphas),
        head_follows=False,
    )


def join_head(adapter: Adapter, tied: bool | None) -> Adapter:
    """The adapter as mlx-lm has it: one module for the embedding and the output of a tied base.

    Raises:
        AdapterError: the two ends change differently, so mlx-lm cannot have it; or ``tied`` must
            be known and is not.
    """
    modules = adapter.modules
    if not {EMBEDDING, HEAD} & set(modules) or not _known(tied):
        return adapter
    if EMBEDDING not in modules:
        raise refusal("tied_head", "adapter", "lm_head")
    if HEAD not in modules:
        if adapter.head_follows:
            return adapter
        raise refusal("tied_embedding", "adapter", EMBEDDING)
    ends = [adapter.lora(module) for module in (EMBEDDING, HEAD)]
    if any(
        one.tobytes() != other.tobytes()
        for one, other in zip(*((end.A, end.B) for end in ends), strict=True)
    ) or (ends[0].scale != ends[1].scale):
        raise refusal("tied_embedding", "adapter", f"{EMBEDDING} and {HEAD} change differently")
    return replace(
        adapter,
        tensors={n: t for n, t in adapter.tensors.items() if module_of(n) != HEAD},
        targets=tuple(t for t in adapter.targets if t != HEAD),
        ranks={m: rank for m, rank in adapter.ranks.items() if m != HEAD},
        alphas={m: alpha for m, alpha in adapter.alphas.items() if m != HEAD},
        head_follows=True,
    )


def _with_head(values: Mapping[str, Number]) -> Mapping[str, Number]:
    return {**values, HEAD: values[EMBEDDING]} if EMBEDDING in values else values


def _known(tied: bool | None) -> bool:
    if tied is None:
        raise AdapterError(
            "adapter: adapts the embedding or the output matrix, so the base must be known; give "
            "it as --model"
        )
    return tied

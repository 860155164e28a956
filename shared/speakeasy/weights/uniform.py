"""Adapters with many ranks and scales as adapters with one of each, and back without a lost bit.

mlx-lm knows one rank and one scale. Matrices of a lower rank are padded with zeros, which add
nothing to B A. Where a module's scale is another, the ratio is multiplied into its B. That is exact
for a power of two, so the common scale is one from which most ratios are; elsewhere B is rounded
once, to a relative error of 2^-24. Several values can be rounded to the same one, so the B from
before must be kept where its bits are to be had again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from speakeasy.errors import AdapterError
from speakeasy.weights.lora import MAGNITUDE_SUFFIX, Adapter, pair


def is_uniform(adapter: Adapter) -> bool:
    """Whether ``r`` and ``alpha`` hold for all modules."""
    return not (adapter.ranks or adapter.alphas)


def uniform(adapter: Adapter) -> Adapter:
    """The same adapter with one rank and one scale; itself where it has these already.

    Each scale * B A differs by float32's rounding of B at most.

    Raises:
        AdapterError: a value would be larger than float32 can be.
    """
    if is_uniform(adapter):
        return adapter
    rank = max(adapter.rank(module) for module in adapter.modules)
    alpha = _common_scale(adapter) * rank
    found = {n: t for n, t in adapter.tensors.items() if n.endswith(MAGNITUDE_SUFFIX)}
    for module in adapter.modules:
        a, b = pair(module)
        missing = rank - adapter.rank(module)
        found[a] = np.pad(adapter.tensors[a], ((0, missing), (0, 0)))
        folded = _times(adapter.tensors[b], _ratio(adapter, module, alpha / rank))
        if not np.isfinite(folded).all():
            raise AdapterError(
                f"adapter: {module}: at the common scale {alpha / rank} a value of B is too large "
                "for float32; take an earlier checkpoint"
            )
        found[b] = np.pad(folded, ((0, 0), (0, missing)))
    ordered = {name: found[name] for name in adapter.tensors}
    return replace(adapter, tensors=ordered, r=rank, alpha=alpha, rslora=False, ranks={}, alphas={})


def lost_in(one: Adapter, adapter: Adapter) -> dict[str, np.ndarray]:
    """The B matrices of ``adapter`` whose bits ``restored`` does not find in ``uniform`` of it.

    Args:
        one: ``uniform(adapter)``.
    """
    back = restored(one, adapter.r, adapter.alpha, adapter.rslora, adapter.ranks, adapter.alphas)
    return {
        b: adapter.tensors[b]
        for module in adapter.modules
        for b in (pair(module)[1],)
        if back.tensors[b].tobytes() != adapter.tensors[b].tobytes()
    }


def restored(
    one: Adapter,
    r: int,
    alpha: float,
    rslora: bool,
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    kept: Mapping[str, np.ndarray] | None = None,
) -> Adapter:
    """The adapter with the ranks and alphas that it had before ``uniform``.

    Args:
        one: the uniform adapter.
        kept: what ``lost_in`` found, by canonical name.

    Raises:
        AdapterError: ranks, alphas and matrices do not go together.
    """
    kept = kept or {}
    tensors = dict(one.tensors)
    scale = one.scale(next(iter(one.modules)))
    for module in one.modules:
        a, b = pair(module)
        rank = ranks.get(module, r)
        own = alphas.get(module, alpha) / (math.sqrt(rank) if rslora else rank)
        tensors[a] = np.ascontiguousarray(one.tensors[a][:rank])
        tensors[b] = np.ascontiguousarray(one.tensors[b][:, :rank])
        if own != scale:
            tensors[b] = kept[b] if b in kept else _times(tensors[b], scale / own if own else 0)
    return replace(
        one, tensors=tensors, r=r, alpha=alpha, rslora=rslora, ranks=ranks, alphas=alphas
    )


def _common_scale(adapter: Adapter) -> float:
    """A scale from which most are a power of two away, and of the size of the largest.

    So a ratio is below 2, and what is folded cannot become too large.
    """
    parts = [math.frexp(scale) for module in adapter.modules if (scale := adapter.scale(module))]
    if not parts:
        return 0.0
    mantissas = [abs(mantissa) for mantissa, _ in parts]
    return math.ldexp(max(mantissas, key=mantissas.count), max(exponent for _, exponent in parts))


def _ratio(adapter: Adapter, module: str, common: float) -> float:
    return adapter.scale(module) / common if common else 1.0


def _times(values: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0:
        return values
    with np.errstate(over="ignore", invalid="ignore"):  # seen by who compares the result
        return (values.astype(np.float64) * factor).astype(np.float32)

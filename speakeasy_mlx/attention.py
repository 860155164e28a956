"""Attention over packed conversations, one segment at a time.

A row of packed conversations needs a block-causal mask, and masked attention computes every
block that the mask then throws away; MLX also keeps scores of the whole row for the backward
pass. Run on each segment by itself, plain causal attention does only the work that counts, and
memory grows with the segments' lengths squared, not with the row's.

mlx-lm's models pass a layer's cache through to their attention function. ``PackedCache`` stands
in for a cache and carries the segments' bounds; the function of the model's module is replaced,
once, by one that knows it and is mlx-lm's own for every other cache.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import mlx.core as mx

from speakeasy_mlx.lean import causal_attention, causal_mask, suits


class PackedCache:
    """Stands in for a layer's cache where whole segments are computed and none is remembered.

    Positions run on through a row, which is the same to rotary embeddings: they see differences
    alone.

    Attributes:
        bounds: the segments of the one flat row are ``bounds[i]:bounds[i + 1]``.
        scored_N: positions that are scored, see ``last_block``; None for all.
    """

    offset = 0

    def __init__(self, bounds: tuple[int, ...], scored_N: mx.array | None = None) -> None:
        self.bounds, self.scored_N = bounds, scored_N
        self._masks: dict[int, mx.array] = {}

    def causal_mask(self, length: int) -> mx.array:
        """The mask of a segment, which all layers share."""
        if length not in self._masks:
            self._masks[length] = causal_mask(length)
        return self._masks[length]

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> str | int:
        """What the model hands on as the mask: ``causal``, or a sliding window's size."""
        return "causal" if window_size is None else window_size

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values, unchanged."""
        return keys, values


def _mask(length: int, given: str | int) -> str | mx.array:
    if isinstance(given, str) or length <= given:
        return "causal"
    index = mx.arange(length)
    distance_TT = index[:, None] - index
    return (distance_TT >= 0) & (distance_TT < given)


def packed_attention(
    query_BHTD: mx.array,
    key_BGTD: mx.array,
    value_BGTD: mx.array,
    cache: PackedCache,
    scale: float,
    mask: str | int,
) -> mx.array:
    """Causal attention within each segment of one flat row; B is 1, H query heads share G."""
    pieces = []
    for start, stop in pairwise(cache.bounds):
        part = slice(start, stop)
        parts = query_BHTD[:, :, part], key_BGTD[:, :, part], value_BGTD[:, :, part]
        kind = _mask(stop - start, mask)
        if suits(query_BHTD) and isinstance(kind, str):
            pieces.append(causal_attention(*parts, scale, cache.causal_mask(stop - start)))
        else:
            pieces.append(mx.fast.scaled_dot_product_attention(*parts, scale=scale, mask=kind))
    return mx.concatenate(pieces, axis=2)


def install(model: Any) -> None:
    """Let a model's attention know ``PackedCache``."""
    names = vars(sys.modules[type(model).__module__])
    own = names["scaled_dot_product_attention"]
    if getattr(own, "knows_packed", False):
        return

    def attention(queries: mx.array, keys: Any, values: Any, cache: Any, **options: Any) -> Any:
        if not isinstance(cache, PackedCache):
            return own(queries, keys, values, cache=cache, **options)
        return packed_attention(
            queries, keys, values, cache, scale=options["scale"], mask=options["mask"]
        )

    attention.knows_packed = True  # type: ignore[attr-defined]
    names["scaled_dot_product_attention"] = attention

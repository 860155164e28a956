"""The last block's feed-forward part, and the norm after it, at the scored positions alone.

Every position of a block is read by the attention of the next; after the last block's attention
nothing reads the positions that no target stands at, two thirds of a conversation.

Shapes: M positions, N scored ones, D width.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from speakeasy_mlx.attention import PackedCache

MODULES = {f"mlx_lm.models.{name}" for name in ("llama", "qwen2", "qwen3")}
"""Modules of mlx-lm whose ``TransformerBlock`` is the formula here."""


def narrow(model: Any) -> bool:
    """Let a model's last block look at ``PackedCache.scored_N``; whether it could."""
    block = model.layers[-1]
    kind = type(block)
    if kind.__module__ not in MODULES or kind.__name__ != "TransformerBlock":
        return False

    def at_scored(block: Any, hidden_1MD: mx.array, mask: Any = None, cache: Any = None) -> Any:
        if not isinstance(cache, PackedCache) or cache.scored_N is None:
            return kind.__call__(block, hidden_1MD, mask, cache)
        attended_1MD = block.self_attn(block.input_layernorm(hidden_1MD), mask, cache)
        hidden_1ND = (hidden_1MD + attended_1MD)[:, cache.scored_N]
        return hidden_1ND + block.mlp(block.post_attention_layernorm(hidden_1ND))

    block.__class__ = type(kind.__name__, (kind,), {"__call__": at_scored})
    return True

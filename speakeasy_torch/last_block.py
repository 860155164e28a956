"""The last block's feed-forward part, and the norm after it, at the scored positions alone.

Every position of a block is read by the attention of the next; after the last block's attention
nothing reads the positions that no target stands at, two thirds of a conversation.

Shapes: M positions, N scored ones, D width.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

BLOCKS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
"""Classes of transformers whose ``forward`` is the formula here."""


def narrow(model: Any) -> bool:
    """Let a model's last block take ``scored``, indices_N of one row; whether it could."""
    block = model.get_decoder().layers[-1]
    if type(block).__name__ not in BLOCKS:
        return False
    block.forward = MethodType(_at_scored, block)
    return True


def _at_scored(
    block: Any, hidden_1MD: torch.Tensor, *, scored: torch.Tensor | None = None, **inputs: Any
) -> torch.Tensor:
    """Hidden_1ND; without ``scored`` all of the row, as the library has it."""
    if scored is None:
        return type(block).forward(block, hidden_1MD, **inputs)
    attended_1MD, _ = block.self_attn(hidden_states=block.input_layernorm(hidden_1MD), **inputs)
    hidden_1ND = (hidden_1MD + attended_1MD)[:, scored]
    return hidden_1ND + block.mlp(block.post_attention_layernorm(hidden_1ND))

"""Attention over packed conversations, one segment at a time.

A row of packed conversations needs a block-causal mask, and a masked kernel computes every
block that the mask then throws away. Run on each segment by itself, the plain causal kernel
does only the work that counts. The segments' bounds are known on the host, so nothing waits
for the device.

Registered with transformers under NAME: without ``segments`` (generation) it is transformers'
own scaled-dot-product attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "speakeasy_packed"


class Segments:
    """Where the conversations of one flat row lie.

    Attributes:
        lengths: positions of each, in order.
    """

    def __init__(self, bounds: Sequence[int]) -> None:
        """Segment ``i`` is ``bounds[i]:bounds[i + 1]``."""
        self.lengths = [stop - start for start, stop in pairwise(bounds)]


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


@torch.compiler.disable
def packed_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BGTD: torch.Tensor,
    value_BGTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **extra: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each of the ``segments`` of one flat row.

    H query heads share G key heads. Returns (1, T, H, D), as transformers expects. torch.compile
    leaves it alone: the number of segments changes from row to row.
    """
    if segments is None:
        return sdpa_attention_forward(
            module,
            query_BHTD,
            key_BGTD,
            value_BGTD,
            attention_mask,
            scaling=scaling,
            sliding_window=sliding_window,
            **extra,
        )
    pieces = []
    # Split, not sliced: each slice's gradient would be as large as the whole.
    whole = (query_BHTD, key_BGTD, value_BGTD)
    parts = (tensor.split(segments.lengths, dim=2) for tensor in whole)
    for query, key, value, length in zip(*parts, segments.lengths, strict=True):
        windowed = sliding_window is not None and length > sliding_window
        pieces.append(
            scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=(
                    _window_mask(length, sliding_window, query_BHTD.device)
                    if windowed and sliding_window
                    else None
                ),
                is_causal=not windowed,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

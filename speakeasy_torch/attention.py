"""Attention over packed conversations, one segment at a time.

A row of packed conversations needs a block-causal mask, and a masked kernel computes every
block that the mask then throws away. Run on each segment by itself, the plain causal kernel
does only the work that counts. The segments' bounds are known on the host, so nothing waits
for the device. On CUDA, torch's flash attention takes all segments in one call where it can
(``one_call``); that path is checked against its signature and its shapes, and has not run on a GPU.

Registered with transformers under NAME: without ``segments`` (generation) it is transformers'
own scaled-dot-product attention.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "speakeasy_packed"
MOST_WIDTH = 192
"""Of a head: flash attention's backward pass with wider ones is not for every GPU."""


class Segments:
    """Where the conversations of one flat row lie.

    Attributes:
        lengths: positions of each, in order.
        offsets: ``bounds`` as int32 on the device, for kernels that take all segments at once;
            None where there are none such.
    """

    def __init__(self, bounds: Sequence[int], offsets: torch.Tensor | None = None) -> None:
        """Segment ``i`` is ``bounds[i]:bounds[i + 1]``."""
        self.lengths = [stop - start for start, stop in pairwise(bounds)]
        self.offsets = offsets


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def one_call(query_BHTD: torch.Tensor) -> Callable[..., torch.Tensor] | None:
    """torch's attention over segments of any length, if it takes values such as these."""
    fits = (
        query_BHTD.is_cuda
        and query_BHTD.dtype in (torch.float16, torch.bfloat16)
        and query_BHTD.shape[-1] % 8 == 0
        and query_BHTD.shape[-1] <= MOST_WIDTH
    )
    return _varlen_attention() if fits and _has_flash(query_BHTD.device.index) else None


@cache
def _has_flash(device: int | None) -> bool:
    """Whether torch was built with flash attention, and the GPU is Ampere or later."""
    return (
        torch.version.hip is None
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


@cache
def _varlen_attention() -> Callable[..., torch.Tensor] | None:
    """torch 2.10 has it too, and there it knows neither windows nor grouped heads."""
    try:
        function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None
    known = inspect.signature(function).parameters
    return function if {"scale", "window_size", "enable_gqa"} <= set(known) else None


def _at_once(
    query_BHTD: torch.Tensor,
    key_BGTD: torch.Tensor,
    value_BGTD: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """(1, T, H, D). A window of W reaches W - 1 positions back: -1 is as far as there are any."""
    function = one_call(query_BHTD)
    assert function is not None
    longest = max(segments.lengths)
    result_THD = function(
        *(tensor[0].transpose(0, 1) for tensor in (query_BHTD, key_BGTD, value_BGTD)),
        segments.offsets,
        segments.offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        enable_gqa=query_BHTD.shape[1] != key_BGTD.shape[1],
    )
    return result_THD[None]


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
    if segments.offsets is not None and one_call(query_BHTD) is not None:
        return _at_once(query_BHTD, key_BGTD, value_BGTD, segments, scaling, sliding_window), None
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

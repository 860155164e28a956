"""Attention over all segments in one call, on CUDA: the choice, and the call, without a GPU."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from speakeasy_torch import attention
from speakeasy_torch.attention import Segments, one_call, packed_attention

VARLEN = attention._varlen_attention()
pytestmark = pytest.mark.skipif(VARLEN is None, reason="this torch has no varlen_attn with windows")


@pytest.mark.parametrize(
    ("dtype", "width", "flash", "chosen"),
    [
        (torch.bfloat16, 64, True, True),
        (torch.float16, 128, True, True),
        (torch.float32, 64, True, False),
        (torch.bfloat16, 60, True, False),
        (torch.bfloat16, 256, True, False),
        (torch.bfloat16, 64, False, False),
    ],
)
def test_choice(
    dtype: torch.dtype, width: int, flash: bool, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_has_flash", lambda device: flash)
    with FakeTensorMode():
        query = torch.empty(1, 4, 10, width, dtype=dtype, device="cuda")
        assert (one_call(query) is not None) == chosen
    assert one_call(torch.empty(1, 4, 10, width, dtype=dtype)) is None


@pytest.mark.parametrize("window", [None, 3])
def test_call(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real function, which knows shapes on the meta device, gets what it asks for."""
    seen: list[inspect.BoundArguments] = []

    def spy(*values: Any, **options: Any) -> torch.Tensor:
        assert VARLEN is not None
        seen.append(inspect.signature(VARLEN).bind(*values, **options))
        return VARLEN(*values, **options)

    monkeypatch.setattr(attention, "one_call", lambda query: spy)
    query, key, value = (
        torch.empty(1, heads, 10, 16, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for heads in (4, 2, 2)
    )
    offsets = torch.empty(4, dtype=torch.int32, device="meta")
    segments = Segments((0, 2, 3, 10), offsets)
    found, _ = packed_attention(
        torch.nn.Module(), query, key, value, None,
        segments=segments, scaling=0.5, sliding_window=window,
    )  # fmt: skip
    assert found.shape == (1, 10, 4, 16)
    found.sum().backward()
    assert (query.grad.shape, key.grad.shape) == (query.shape, key.shape)
    given = seen[0].arguments
    assert [tuple(given[name].shape) for name in ("query", "key")] == [(10, 4, 16), (10, 2, 16)]
    assert given["cu_seq_q"] is given["cu_seq_k"] is offsets
    assert given["max_q"] == given["max_k"] == 7
    assert (given["scale"], given["enable_gqa"]) == (0.5, True)
    assert given["window_size"] == (-1 if window is None else window - 1, 0)

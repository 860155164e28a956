"""The lean layers against the libraries' own: values, and gradients in everything that has one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

TORCH_WITHIN = {"float32": 2e-5, "bfloat16": 2e-2}
"""Of the largest value: bfloat16 keeps eight bits, and the two round at different places."""


class TestTorch:
    """speakeasy_torch.lean against transformers and PEFT."""

    @pytest.mark.parametrize("precision", TORCH_WITHIN)
    @pytest.mark.parametrize("part", ["norm", "mlp", "lora", "plain"])
    @pytest.mark.parametrize("library", ["MKL", "oneDNN"])
    def test_layer(
        self, part: str, precision: str, library: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        from speakeasy_torch import lean, products
        from speakeasy_torch.lean import make_lean

        if library == "oneDNN" and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            pytest.skip("torch was built without oneDNN")
        for module in (lean, products):
            monkeypatch.setattr(module, "prefers_onednn", lambda: library == "oneDNN")

        dtype = getattr(torch, precision)
        torch.manual_seed(0)
        theirs, ours = torch_layer(part, dtype), torch_layer(part, dtype)
        ours.load_state_dict(theirs.state_dict())
        holder = torch.nn.Module()
        holder.layer = ours
        make_lean(holder, "default")
        assert ("forward" in vars(ours)) == (part != "plain" or library == "oneDNN")
        hidden = torch.randn(1, products.LEAST_ROWS + 1, 8, dtype=dtype)
        outcomes = [through(layer, hidden) for layer in (theirs, ours)]
        for expected, found in zip(*outcomes, strict=True):
            assert found.dtype == expected.dtype
            largest = expected.abs().max().item()
            difference = (found - expected).abs().max().item()
            assert difference <= TORCH_WITHIN[precision] * largest

    def test_a_layer_that_learns_has_a_gradient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        from speakeasy_torch import lean

        monkeypatch.setattr(lean, "prefers_onednn", lambda: True)
        layer = torch.nn.Linear(8, 5)
        lean.make_lean(torch.nn.Sequential(layer), "default")
        layer(torch.randn(100, 8)).sum().backward()
        assert torch.allclose(layer.bias.grad, torch.full((5,), 100.0))
        assert layer.weight.grad.abs().sum() > 0

    def test_dropout_and_dora_keep_pefts_layer(self) -> None:
        import torch

        from speakeasy_torch.lean import make_lean

        for options in ({"lora_dropout": 0.1}, {"use_dora": True}):
            holder = torch.nn.Module()
            holder.layer = torch_layer("lora", torch.float32, **options)
            make_lean(holder, "default")
            assert "forward" not in vars(holder.layer)

    def test_rotation(self) -> None:
        import torch

        from speakeasy_torch.lean import _Rotation

        torch.manual_seed(0)
        vectors = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
        angles = torch.randn(2, 5, 4, dtype=torch.float64).repeat(1, 1, 2)
        found = _Rotation.apply(vectors, angles.cos(), angles.sin())
        first, second = vectors.detach()[..., :4], vectors.detach()[..., 4:]
        cos, sin = angles[:, None, :, :4].cos(), angles[:, None, :, :4].sin()
        expected = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        assert torch.allclose(found, expected)
        torch.autograd.gradcheck(
            lambda v: _Rotation.apply(v, angles.cos(), angles.sin()), [vectors]
        )

    @pytest.mark.skipif(sys.platform != "linux", reason="glibc")
    def test_heap_is_kept_until_it_has_grown(self) -> None:
        """In a process of its own: what is freed stays, and goes back in one piece."""
        code = """
import psutil, torch
from speakeasy_torch.heap import Heap
heap, process = Heap(), psutil.Process()
size = lambda: process.memory_info().rss / 2**20
torch.ones(25 * 2**20)
heap.end_step()
kept = size()
torch.ones(100 * 2**20)
grown = size()
heap.end_step()
print(kept, grown, size())
"""
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        kept, grown, trimmed = (float(word) for word in done.stdout.split())
        assert grown > kept + 250
        assert trimmed < kept


def torch_layer(part: str, dtype: Any, **options: Any) -> Any:
    """A random layer of width 8."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

    if part == "mlp":
        return LlamaMLP(LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)).to(
            dtype
        )
    if part == "norm":
        norm = LlamaRMSNorm(8).to(dtype)
        torch.nn.init.normal_(norm.weight)
        return norm
    if part == "plain":
        return torch.nn.Linear(8, 5, dtype=dtype).requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=3, **options)
    base = torch.nn.Linear(8, 5).requires_grad_(False)
    layer = Linear(base, "default", config, r=2, lora_alpha=3)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    layer.base_layer.to(dtype)
    return layer


def through(layer: Any, hidden: Any) -> list[Any]:
    """The result, and the gradients in the input and in every parameter."""
    hidden = hidden.clone().requires_grad_()
    result = layer(hidden)
    result.square().sum().backward()
    gradients = [p.grad for _, p in sorted(layer.named_parameters()) if p.grad is not None]
    return [result.detach(), hidden.grad, *gradients]


class TestMlx:
    """speakeasy_mlx.lean against MLX."""

    def test_exponential(self) -> None:
        mx = mlx_core()
        from speakeasy_mlx.lean import exp

        values = np.concatenate([np.linspace(-87, 88, 20_001), [0, 1e-30, -1e-30]])
        values = values.astype(np.float32)
        expected = np.exp(values.astype(np.float64))
        np.testing.assert_allclose(np.array(exp(mx.array(values))), expected, rtol=8e-6)
        small = np.abs(values) < 1
        found = np.array(exp(mx.array(values[small])))
        np.testing.assert_allclose(found, expected[small], rtol=4e-7)
        assert 0 < float(exp(mx.array(-1e30))) < 1e-37

    def test_activation(self) -> None:
        mx = mlx_core()
        import mlx.nn as nn

        from speakeasy_mlx.lean import silu_gate

        mx.random.seed(0)
        gate, up, weight = (10 * mx.random.normal((6, 9)) for _ in range(3))
        same(
            lambda g, u: (nn.silu(g) * u * weight).sum(),
            lambda g, u: (silu_gate(g, u) * weight).sum(),
            [gate, up],
        )

    @pytest.mark.parametrize(("heads", "groups", "length"), [(4, 4, 1), (6, 2, 17), (3, 1, 40)])
    def test_attention(self, heads: int, groups: int, length: int) -> None:
        mx = mlx_core()
        from speakeasy_mlx.lean import causal_attention, causal_mask

        mx.random.seed(0)
        query, weight = (mx.random.normal((1, heads, length, 8)) for _ in range(2))
        key, value = (mx.random.normal((1, groups, length, 8)) for _ in range(2))
        mask = causal_mask(length)

        def theirs(*parts: Any) -> Any:
            attention = mx.fast.scaled_dot_product_attention(*parts, scale=0.3, mask="causal")
            return (attention * weight).sum()

        def ours(*parts: Any) -> Any:
            return (causal_attention(*parts, 0.3, mask) * weight).sum()

        same(theirs, ours, [query, key, value])

    def test_adapted_layer(self) -> None:
        mx = mlx_core()
        import mlx.nn as nn
        from mlx_lm.tuner.lora import LoRALinear

        from speakeasy_mlx.lean import LeanLoRALinear

        mx.random.seed(0)
        layer = LoRALinear.from_base(nn.Linear(8, 5), r=2, scale=1.5)
        layer.lora_b = mx.random.normal((2, 5))
        hidden = mx.random.normal((1, 7, 8))

        def result(kind: type) -> Callable[..., Any]:
            def call(hidden: Any, lora_a: Any, lora_b: Any) -> Any:
                layer.__class__, layer.lora_a, layer.lora_b = kind, lora_a, lora_b
                return mx.square(layer(hidden)).sum()

            return call

        parts = [hidden, layer.lora_a, layer.lora_b]
        same(result(LoRALinear), result(LeanLoRALinear), parts)


def mlx_core() -> Any:
    """mlx.core, with the system's BLAS, and nothing where it is not installed."""
    pytest.importorskip("speakeasy_mlx")
    return pytest.importorskip("mlx.core")


def same(theirs: Callable[..., Any], ours: Callable[..., Any], inputs: list[Any]) -> None:
    """Equal values and gradients."""
    import mlx.core as mx

    numbers = list(range(len(inputs)))
    expected = mx.value_and_grad(theirs, argnums=numbers)(*inputs)
    found = mx.value_and_grad(ours, argnums=numbers)(*inputs)
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-5)
    largest = max(float(mx.abs(gradient).max()) for gradient in expected[1])
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=0, atol=2e-5 * largest)

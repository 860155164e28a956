"""Adapters added into a copy of the weights, once a step instead of at every position.

Where a layer is small, its adapter costs a sixth of its product or more. A third of that, the
outer product ``B (A x)`` and its twin in the gradient of ``x``, can be had for one product a step,
``scale * B A``, added to the frozen weights whenever the adapter has changed. The frozen weights
stay beside the sum, in the narrowest type that holds them exactly: nothing is ever subtracted, so
nothing drifts. Which layers: ``training.merging``.

A feed-forward part whose three layers are merged is one autograd function, and the first two of
them one product.

Shapes: M positions, D width, F width of the feed-forward part, I and O a layer's inputs and
outputs, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch.nn.functional import silu

from speakeasy.training.merging import pays
from speakeasy_torch.lean import is_frozen, is_gated, is_plain
from speakeasy_torch.products import product


class Merged:
    """The merged layers of a model, whose weights are those of the last ``refresh``."""

    def __init__(self, model: Any, adapter: str) -> None:
        """Take the layers where it pays; a model without an adapter has none."""
        self._layers = [
            _Layer(module, adapter, _narrowest(module.base_layer.weight.detach()))
            for module in model.modules()
            if isinstance(module, LoraLayer) and _suits(module, adapter)
        ]
        taken = {id(layer.module): layer for layer in self._layers}
        for layer in self._layers:
            layer.module.forward = MethodType(_forward, layer)
        for module in model.modules():
            if not is_gated(module):
                continue
            parts = [taken[id(part)] for part in _parts(module) if id(part) in taken]
            if len(parts) == 3 and all(part.base.bias is None for part in parts):
                gate, up, down = parts
                joined = _FeedForward(gate, up, down, _join([gate, up]))
                module.forward = MethodType(_feed_forward, joined)
        if any(layer.outer_OR.any() for layer in self._layers):  # a fresh adapter adds nothing
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Merge the adapters as they are now."""
        for layer in self._layers:
            layer.base.weight.copy_(layer.frozen_OI)
            layer.base.weight.addmm_(layer.outer_OR, layer.inner_RI, alpha=layer.scale)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One of PEFT's layers, whose base's weight is the sum."""

    module: Any
    adapter: str
    frozen_OI: torch.Tensor

    @property
    def base(self) -> Any:
        return self.module.base_layer

    @property
    def inner_RI(self) -> torch.Tensor:
        return self.module.lora_A[self.adapter].weight

    @property
    def outer_OR(self) -> torch.Tensor:
        return self.module.lora_B[self.adapter].weight

    @property
    def scale(self) -> float:
        return self.module.scaling[self.adapter]


@dataclass(frozen=True, slots=True)
class _FeedForward:
    """Three layers, of which the first two's weights are parts of ``gate_and_up_2FD``."""

    gate: _Layer
    up: _Layer
    down: _Layer
    gate_and_up_2FD: torch.Tensor


def _suits(layer: Any, adapter: str) -> bool:
    """Plain LoRA on frozen float32 weights, where it pays. In 16 bits the sum would lose digits."""
    base = layer.base_layer
    return (
        is_plain(layer, adapter)
        and is_frozen(base)
        and base.weight.dtype is torch.float32
        and pays(base.out_features, base.in_features, layer.r[adapter])
    )


def _narrowest(weight: torch.Tensor) -> torch.Tensor:
    for part in (weight[0], weight):  # the first row mostly tells
        narrow = part.to(torch.bfloat16)
        if not torch.equal(narrow.to(weight.dtype), part):
            return weight.clone()
    return narrow


def _parts(mlp: Any) -> tuple[Any, Any, Any]:
    return mlp.gate_proj, mlp.up_proj, mlp.down_proj


def _join(layers: list[_Layer]) -> torch.Tensor:
    """Lay the sums of layers that read the same one after the other in memory; returns them all."""
    whole = torch.cat([layer.base.weight for layer in layers])
    for layer, part in zip(layers, whole.chunk(len(layers)), strict=True):
        layer.base.weight.data = part
    return whole


def _forward(layer: _Layer, hidden: torch.Tensor) -> torch.Tensor:
    result = _MergedLinear.apply(
        hidden.flatten(0, -2),
        layer.base.weight,
        layer.base.bias,
        layer.inner_RI,
        layer.outer_OR,
        layer.scale,
    )
    return result.view(*hidden.shape[:-1], result.shape[-1])


def _feed_forward(mlp: _FeedForward, hidden: torch.Tensor) -> torch.Tensor:
    gate, up, down = mlp.gate, mlp.up, mlp.down
    result = _MergedFeedForward.apply(
        hidden.flatten(0, -2),
        mlp.gate_and_up_2FD,
        down.base.weight,
        (gate.scale, up.scale, down.scale),
        *(factor for layer in (gate, up, down) for factor in (layer.inner_RI, layer.outer_OR)),
    )
    return result.view(hidden.shape)


class _MergedLinear(torch.autograd.Function):
    """``x (W + scale * B A)' + b`` (Hu et al. 2021, https://arxiv.org/abs/2106.09685), given the
    sum; the factors learn."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MI: torch.Tensor,
        sum_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        inner_RI: torch.Tensor,
        outer_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden_MI, sum_OI, inner_RI, outer_OR)
        ctx.scale = scale
        return product(hidden_MI, sum_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, gradient_MO: torch.Tensor) -> tuple[Any, ...]:
        hidden_MI, sum_OI, inner_RI, outer_OR = ctx.saved_tensors
        factors = _factor_gradients(hidden_MI, gradient_MO, inner_RI, outer_OR, ctx.scale)
        hidden_gradient = gradient_MO @ sum_OI if ctx.needs_input_grad[0] else None
        return hidden_gradient, None, None, *factors, None


class _MergedFeedForward(torch.autograd.Function):
    """``down(silu(gate x) * (up x))`` (Shazeer 2020, https://arxiv.org/abs/2002.05202) of merged
    layers without bias; the factors learn."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: torch.Tensor,
        gate_and_up_2FD: torch.Tensor,
        down_DF: torch.Tensor,
        scales: tuple[float, float, float],
        *factors: torch.Tensor,
    ) -> torch.Tensor:
        both_M2F = product(hidden_MD, gate_and_up_2FD)
        gate_MF, up_MF = both_M2F.chunk(2, dim=1)
        inner_MF = silu(gate_MF).mul_(up_MF)
        ctx.save_for_backward(hidden_MD, gate_and_up_2FD, down_DF, both_M2F, inner_MF, *factors)
        ctx.scales = scales
        return product(inner_MF, down_DF)

    @staticmethod
    def backward(ctx: Any, gradient_MD: torch.Tensor) -> tuple[Any, ...]:
        hidden_MD, gate_and_up_2FD, down_DF, both_M2F, inner_MF, *factors = ctx.saved_tensors
        of_gate, of_up, of_down = zip(factors[::2], factors[1::2], strict=True)
        by_gate, by_up, by_down = ctx.scales
        gate_MF, up_MF = both_M2F.chunk(2, dim=1)
        down_gradients = _factor_gradients(inner_MF, gradient_MD, *of_down, by_down)
        inner_gradient_MF = gradient_MD @ down_DF
        both_gradient_M2F = torch.empty_like(both_M2F)
        gate_gradient_MF, up_gradient_MF = both_gradient_M2F.chunk(2, dim=1)
        torch.mul(silu(gate_MF), inner_gradient_MF, out=up_gradient_MF)
        inner_gradient_MF.mul_(up_MF)
        torch.ops.aten.silu_backward(inner_gradient_MF, gate_MF, grad_input=gate_gradient_MF)
        return (
            both_gradient_M2F @ gate_and_up_2FD if ctx.needs_input_grad[0] else None,
            None,
            None,
            None,
            *_factor_gradients(hidden_MD, gate_gradient_MF, *of_gate, by_gate),
            *_factor_gradients(hidden_MD, up_gradient_MF, *of_up, by_up),
            *down_gradients,
        )


def _factor_gradients(
    hidden_MI: torch.Tensor,
    gradient_MO: torch.Tensor,
    inner_RI: torch.Tensor,
    outer_OR: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of A and of B."""
    outer_MR = (gradient_MO @ outer_OR).mul_(scale)
    inner_MR = product(hidden_MI, inner_RI).mul_(scale)
    # The long side first: so the product is half as fast again.
    return (hidden_MI.T @ outer_MR).T.contiguous(), gradient_MO.T @ inner_MR

"""Adapters added into a copy of the weights, once a step instead of at every position.

As in ``speakeasy_torch.merged``: a third of what an adapter costs is saved for one product a step.
Which layers: ``training.merging``.

Shapes: M positions, I and O a layer's inputs and outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from speakeasy.config import LoraConfig
from speakeasy.training.merging import pays
from speakeasy_mlx.lean import LeanLoRALinear
from speakeasy_mlx.trail import both_ways, mark


class Merged:
    """The merged layers of a model, whose weights are those of the last ``refresh``."""

    def __init__(self, model: nn.Module, lora: LoraConfig | None) -> None:
        """Take the layers where it pays; of a model without an adapter, or with dropout, none."""
        modules = model.named_modules() if lora and not lora.dropout else ()
        layers = [layer for _, layer in modules if _suits(layer)]
        for layer in layers:
            layer.__class__ = _MergedLinear
            layer.keep()
        self._layers: list[Any] = layers
        if any(layer.lora_b.any().item() for layer in layers):  # a fresh adapter adds nothing
            self.refresh()

    def refresh(self) -> None:
        """Merge the adapters as they are now."""
        for layer in self._layers:
            layer.merge()
        mx.eval([layer.linear.weight for layer in self._layers])


def _suits(layer: Any) -> bool:
    """Plain LoRA on frozen float32 weights, where it pays. In 16 bits the sum would lose digits."""
    if type(layer) is not LeanLoRALinear or type(layer.linear) is not nn.Linear:
        return False
    outputs, inputs = layer.linear.weight.shape
    return layer.linear.weight.dtype == mx.float32 and pays(outputs, inputs, layer.lora_a.shape[1])


class _MergedLinear(LeanLoRALinear):
    """mlx-lm's adapted layer, whose base's weight is the sum."""

    def keep(self) -> None:
        """The frozen weights, in the narrowest type that holds them exactly."""
        weight_OI = self.linear.weight
        narrow_OI = weight_OI.astype(mx.bfloat16)
        exact = bool(mx.array_equal(narrow_OI.astype(mx.float32), weight_OI))
        self._frozen_OI = narrow_OI if exact else weight_OI
        self._product = _make_product(self)

    def merge(self) -> None:
        """Make the sum anew."""
        frozen_OI = self._frozen_OI.astype(mx.float32)
        self.linear.weight = mx.addmm(frozen_OI, self.lora_b.T, self.lora_a.T, alpha=self.scale)

    def __call__(self, hidden: mx.array) -> mx.array:
        """``linear(x)`` with the sum."""
        result: mx.array = self._product(both_ways(hidden), self.lora_a, self.lora_b)
        mark(result)
        return result


def _make_product(layer: Any) -> Any:
    @mx.custom_function
    def product(hidden: mx.array, inner_IR: mx.array, outer_RO: mx.array) -> mx.array:
        result: mx.array = layer.linear(hidden)
        return result

    @product.vjp
    def gradients(primals: Any, gradient: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        hidden, inner_IR, outer_RO = primals
        mark(gradient)
        hidden_MI = hidden.reshape(-1, hidden.shape[-1])
        gradient_MO = gradient.reshape(-1, gradient.shape[-1])
        outer_MR = gradient_MO @ (layer.scale * outer_RO).T
        inner_MR = hidden_MI @ (layer.scale * inner_IR)
        factors = hidden_MI.T @ outer_MR, inner_MR.T @ gradient_MO
        mark(*factors)
        return gradient @ layer.linear.weight, *factors

    return product

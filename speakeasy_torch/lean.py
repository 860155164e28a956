"""The parts of a step between matrix products, with fewer passes over memory.

transformers and PEFT write norms, gated activations and adapters as chains of element-wise
operations, each of which writes a new tensor. On a CPU, where such a pass moves as many bytes as a
small product reads, they took a third of a step (``benchmarks.step``). Here the same formulas write
in place where nobody needs what was there, and keep less for the backward pass. Weights and module
names stay as the libraries have them; a layer that is none of those known here stays as it is.
To torch.compile, which finds these formulas by itself, the libraries' own are shown.

Shapes: M positions, D width, I and O a layer's inputs and outputs, R rank.
"""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch.compiler import is_compiling
from torch.nn.functional import linear, silu

from speakeasy_torch.products import prefers_onednn, product

NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}
"""Classes of transformers whose ``forward`` is the formula here. (Gemma's norm adds 1 to its
weight.)"""


def make_lean(model: Any, adapter: str) -> None:
    """Give the layers of a model, adapted or not, their forward passes from here, in place.

    The rotary embedding is a function of the model's module, and replaced there once.
    """
    _replace_rotation(model)
    for module in model.modules():
        kind = type(module).__name__
        if kind in NORMS:
            module.forward = MethodType(_normalised, module)
        elif is_gated(module):
            module.forward = MethodType(_gated, module)
        elif isinstance(module, LoraLayer) and is_plain(module, adapter):
            module.forward = MethodType(_adapted, module)
            module.lean_adapter = adapter
        elif type(module) is torch.nn.Linear and prefers_onednn():
            module.forward = MethodType(_plain, module)


def is_gated(module: Any) -> bool:
    """A feed-forward part by the formula here."""
    known = type(module).__name__ in MLPS
    return known and "silu" in type(module.act_fn).__name__.lower()


def is_plain(layer: Any, adapter: str) -> bool:
    """LoRA on a linear layer, without DoRA and without dropout."""
    dropout = layer.lora_dropout[adapter]
    return (
        adapter not in layer.lora_variant
        and isinstance(layer.get_base_layer(), torch.nn.Linear)
        and isinstance(dropout, torch.nn.Identity)
    )


def _adapted(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """PEFT's ``base(x) + scale * B(A(x))``, the second term added in place.

    The factors are kept in float32 and multiplied in the activations' type, as under autocast.
    """
    if layer.disable_adapters or layer.merged:
        return type(layer).forward(layer, hidden)
    name, kind, base = layer.lean_adapter, hidden.dtype, layer.base_layer
    hidden_MI, scale = hidden.flatten(0, -2), layer.scaling[name]
    inner_RI = layer.lora_A[name].weight.to(kind)
    outer_OR = layer.lora_B[name].weight.to(kind)
    if is_compiling():
        return base(hidden) + linear(linear(hidden, inner_RI), outer_OR) * scale
    if is_frozen(base):
        result = _Adapted.apply(hidden_MI, base.weight, base.bias, inner_RI, outer_OR, scale)
    else:  # bitsandbytes may return a view, which must stay as it is for its backward pass
        inner_MR = linear(hidden_MI, inner_RI)
        result = torch.addmm(base(hidden_MI), inner_MR, outer_OR.T, alpha=scale)
    return result.view(*hidden.shape[:-1], result.shape[-1])


def _plain(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    if is_compiling() or not is_frozen(layer):
        return linear(hidden, layer.weight, layer.bias)
    result = _Frozen.apply(hidden.flatten(0, -2), layer.weight, layer.bias)
    return result.view(*hidden.shape[:-1], result.shape[-1])


def is_frozen(layer: Any) -> bool:
    """A linear layer that learns nothing."""
    return (
        type(layer) is torch.nn.Linear
        and not layer.weight.requires_grad
        and (layer.bias is None or not layer.bias.requires_grad)
    )


def _normalised(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    if is_compiling():
        return type(norm).forward(norm, hidden)
    return _RmsNorm.apply(hidden, norm.weight, norm.variance_epsilon)


def _gated(mlp: Any, hidden: torch.Tensor) -> torch.Tensor:
    if is_compiling():
        return type(mlp).forward(mlp, hidden)
    return mlp.down_proj(_SiluGate.apply(mlp.gate_proj(hidden), mlp.up_proj(hidden)))


def _replace_rotation(model: Any) -> None:
    """For models whose module has the function that Llama's has; others keep their own."""
    names = vars(sys.modules[type(model).__module__])
    own = names.get("apply_rotary_pos_emb")
    if own is None or getattr(own, "is_lean", False) or not _is_llamas(own):
        return

    def rotate(
        query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, **axis: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if is_compiling() or axis or cos.shape[-1] != query.shape[-1]:
            return own(query, key, cos, sin, **axis)
        return _Rotation.apply(query, cos, sin), _Rotation.apply(key, cos, sin)

    rotate.is_lean = True  # type: ignore[attr-defined]
    names["apply_rotary_pos_emb"] = rotate


def _is_llamas(function: Any) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, key, angle = (torch.rand(1, 2, 3, 4, generator=generator) for _ in range(3))
    cos, sin = angle[:, 0].cos(), angle[:, 0].sin()
    try:
        theirs = function(query, key, cos, sin)
    except (TypeError, ValueError, RuntimeError):
        return False
    ours = _Rotation.apply(query, cos, sin), _Rotation.apply(key, cos, sin)
    return all(torch.allclose(a, b) for a, b in zip(theirs, ours, strict=True))


class _Frozen(torch.autograd.Function):
    """A linear layer that learns nothing."""

    @staticmethod
    def forward(
        ctx: Any, hidden_MI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight_OI)
        return product(hidden_MI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, gradient_MO: torch.Tensor) -> tuple[Any, ...]:
        (weight_OI,) = ctx.saved_tensors
        return gradient_MO @ weight_OI, None, None


class _Adapted(torch.autograd.Function):
    """``x W' + b + scale x A' B'`` (Hu et al. 2021, https://arxiv.org/abs/2106.09685). Both terms
    of the gradient in x are summed where the first stands."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MI: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        inner_RI: torch.Tensor,
        outer_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        result = product(hidden_MI, weight_OI, bias_O)
        inner_MR = product(hidden_MI, inner_RI)
        ctx.save_for_backward(hidden_MI, weight_OI, inner_RI, outer_OR, inner_MR)
        ctx.scale = scale
        return result.addmm_(inner_MR, outer_OR.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, gradient_MO: torch.Tensor) -> tuple[Any, ...]:
        hidden_MI, weight_OI, inner_RI, outer_OR, inner_MR = ctx.saved_tensors
        inner_gradient_MR = (gradient_MO @ outer_OR).mul_(ctx.scale)
        hidden_gradient = None
        if ctx.needs_input_grad[0]:
            hidden_gradient = (gradient_MO @ weight_OI).addmm_(inner_gradient_MR, inner_RI)
        # The long side first: so the product is half as fast again.
        inner_gradient_RI = (hidden_MI.T @ inner_gradient_MR).T.contiguous()
        outer_gradient_OR = (gradient_MO.T @ inner_MR).mul_(ctx.scale)
        return hidden_gradient, None, None, inner_gradient_RI, outer_gradient_OR, None


class _Rotation(torch.autograd.Function):
    """Rotary embedding of (B, H, M, D) by angles (B, M, D), halves rotated against each other
    (Su et al. 2021, https://arxiv.org/abs/2104.09864). Its gradient is the rotation back."""

    @staticmethod
    def forward(
        ctx: Any, vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(vectors, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, sin, -1), None, None


def _rotated(
    vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int
) -> torch.Tensor:
    cos, sin = cos[:, None], sin[:, None]
    half = vectors.shape[-1] // 2
    result = vectors * cos
    # Back, each half takes the angle of the half that it came from.
    low, high = (sin[..., :half], sin[..., half:])[::sign]
    result[..., :half].addcmul_(vectors[..., half:], low, value=-sign)
    result[..., half:].addcmul_(vectors[..., :half], high, value=sign)
    return result


class _RmsNorm(torch.autograd.Function):
    """``weight * hidden / sqrt(mean(hidden ** 2) + epsilon)``, the root in float32
    (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight_D: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        exact = hidden.float()
        norm = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        inverse = norm.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight_D, inverse)
        return (exact * inverse).to(hidden.dtype).mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        hidden, weight_D, inverse = ctx.saved_tensors
        exact = hidden.float()
        weight_gradient = None
        if ctx.needs_input_grad[1]:
            ratio = (exact * inverse).mul_(gradient)
            weight_gradient = ratio.flatten(0, -2).sum(0).to(weight_D.dtype)
        # d/dx: inverse * (g - x * mean(g * x) * inverse ** 2) for g = gradient * weight
        result = gradient.float() * weight_D
        mean = torch.linalg.vecdot(result, exact)[..., None].div_(hidden.shape[-1])
        result.addcmul_(exact, mean.mul_(inverse.square()), value=-1).mul_(inverse)
        return result.to(hidden.dtype), weight_gradient, None


class _SiluGate(torch.autograd.Function):
    """``silu(gate) * up`` (Shazeer 2020, https://arxiv.org/abs/2002.05202), which keeps its two
    inputs alone."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        up_gradient = silu(gate).mul_(gradient)
        return torch.ops.aten.silu_backward(gradient * up, gate), up_gradient
